//! The RFCs' test vectors, and those of MIT's own tests (`src/lib/crypto/crypto_tests` of its source), whose messages
//! have other lengths and usages.

use super::*;
use crate::kerberos::tests::counting;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// RFC 3961 appendix A.1.
#[test]
fn folds_are_those_of_the_rfc() {
    assert_eq!(hex(&fold::<8>(b"012345")), "be072631276b1955");
    assert_eq!(hex(&fold::<7>(b"password")), "78a07b6caf85fa");
    assert_eq!(hex(&fold::<8>(b"Rough Consensus, and Running Code")), "bb6ed30870b7f0e0");
    assert_eq!(hex(&fold::<21>(b"password")), "59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e");
    let massachvsetts = "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b";
    assert_eq!(hex(&fold::<24>(b"MASSACHVSETTS INSTITVTE OF TECHNOLOGY")), massachvsetts);
    assert_eq!(hex(&fold::<21>(b"Q")), "518a54a215a8452a518a54a215a8452a518a54a215");
    assert_eq!(hex(&fold::<21>(b"ba")), "fb25d531ae8974499f52fd92ea9857c4ba24cf297e");
    assert_eq!(hex(&fold::<8>(b"kerberos")), "6b65726265726f73");
    assert_eq!(hex(&fold::<16>(b"kerberos")), "6b65726265726f737b9b5b2b93132b93");
    assert_eq!(hex(&fold::<21>(b"kerberos")), "8372c236344e5f1550cd0747e15d62ca7a5a3bcea4");
    let long = "6b65726265726f737b9b5b2b93132b935c9bdcdad95c9899c4cae4dee6d6cae4";
    assert_eq!(hex(&fold::<32>(b"kerberos")), long);
    assert_eq!(fold::<16>(b""), [0; 16]);
}

/// RFC 3962 appendix B.
#[test]
fn ciphertext_stealing_is_that_of_the_rfc() {
    let cipher = Cipher::new(b"chicken teriyaki").unwrap();
    let text = b"I would like the General Gau's Chicken, please, and wonton soup.";
    for (length, expected) in [
        (17, "c6353568f2bf8cb4d8a580362da7ff7f97"),
        (31, "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5"),
        (32, "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584"),
        (47, "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5"),
        (48, "97687268d6ecccc0c07b25e25ecfe5849dad8bbb96c4cdc03bc103e1a194bbd839312523a78662d5be7fcbcc98ebf5a8"),
        (
            64,
            "97687268d6ecccc0c07b25e25ecfe58439312523a78662d5be7fcbcc98ebf5a84807efe836ee89a526730dbc2f7bc8409dad8bbb96c4cdc0\
             3bc103e1a194bbd8",
        ),
    ] {
        let mut message = text[..length].to_vec();
        cipher.encrypt(&mut message);
        assert_eq!(hex(&message), expected);
        cipher.decrypt(&mut message);
        assert_eq!(message, text[..length]);
    }
}

/// RFC 3962 appendix B, RFC 8009 appendix A; MIT's `t_str2key.c` has them too.
#[test]
fn keys_of_passwords_are_those_of_the_rfcs() {
    let athena = b"ATHENA.MIT.EDUraeburn".as_slice();
    let random = unhex("10df9dd783e5bc8acea1730e74355f61415448454e412e4d49542e4544557261656275726e");
    let (equals, exceeds) = ("X".repeat(64), "X".repeat(65));
    let equal_salt = b"pass phrase equals block size".as_slice();
    let long_salt = b"pass phrase exceeds block size".as_slice();
    let vectors: &[(i32, &str, &[u8], u32, &str)] = &[
        (17, "password", athena, 1, "42263c6e89f4fc28b8df68ee09799f15"),
        (18, "password", athena, 1, "fe697b52bc0d3ce14432ba036a92e65bbb52280990a2fa27883998d72af30161"),
        (17, "password", athena, 2, "c651bf29e2300ac27fa469d693bdda13"),
        (18, "password", athena, 2, "a2e16d16b36069c135d5e9d2e25f896102685618b95914b467c67622225824ff"),
        (17, "password", athena, 1200, "4c01cd46d632d01e6dbe230a01ed642a"),
        (18, "password", athena, 1200, "55a6ac740ad17b4846941051e1e8b0a7548d93b0ab30a8bc3ff16280382b8c2a"),
        (17, "password", &[0x12, 0x34, 0x56, 0x78, 0x78, 0x56, 0x34, 0x12], 5, "e9b23d52273747dd5c35cb55be619d8e"),
        (
            18,
            "password",
            &[0x12, 0x34, 0x56, 0x78, 0x78, 0x56, 0x34, 0x12],
            5,
            "97a4e786be20d81a382d5ebc96d5909cabcdadc87ca48f574504159f16c36e31",
        ),
        (17, &equals, equal_salt, 1200, "59d1bb789a828b1aa54ef9c2883f69ed"),
        (18, &equals, equal_salt, 1200, "89adee3608db8bc71f1bfbfe459486b05618b70cbae22092534e56c553ba4b34"),
        (17, &exceeds, long_salt, 1200, "cb8005dc5f90179a7f02104c0018751d"),
        (18, &exceeds, long_salt, 1200, "d78c5c9cb872a8c9dad4697f0bb5b2d21496c82beb2caeda2112fceea057401b"),
        (17, "\u{1d11e}", b"EXAMPLE.COMpianist", 50, "f149c1f2e154a73452d43e7fe62a56e5"),
        (
            18,
            "\u{1d11e}",
            b"EXAMPLE.COMpianist",
            50,
            "4b6d9839f84406df1f09cc166db4b83c571848b784a3d6bdc346589a3e393f9e",
        ),
        (19, "password", &random, 32768, "089bca48b105ea6ea77ca5d2f39dc5e7"),
        (20, "password", &random, 32768, "45bd806dbf6a833a9cffc1c94589a222367a79bc21c413718906e9f578a78467"),
    ];
    for (enctype, password, salt, rounds, expected) in vectors {
        let key = Key::from_password(*enctype, password, salt, Some(rounds.to_be_bytes())).unwrap();
        assert_eq!(hex(key.octets()), *expected);
        if *rounds == 32_768 {
            assert!(Key::from_password(*enctype, password, salt, None).unwrap().is(*enctype, key.octets()));
        }
    }
    let default = Key::from_password(18, "password", athena, None).unwrap();
    assert!(Key::from_password(18, "password", athena, Some([0, 0, 16, 0])).unwrap().is(18, default.octets()));
    assert_eq!(Key::from_password(18, "password", athena, Some([0; 4])).unwrap_err(), KeyError::Rounds);
}

/// RFC 8009 appendix A for the last two enctypes, MIT's `t_derive.c` for all.
#[test]
fn derived_keys_are_those_of_the_rfcs() {
    for (enctype, key, usage, what, expected) in [
        (17, "42263c6e89f4fc28b8df68ee09799f15", 2, 0x99, "34280a382bc92769b2da2f9ef066854b"),
        (17, "42263c6e89f4fc28b8df68ee09799f15", 2, 0xaa, "5b14fc4e250e14ddf9dccf1af6674f53"),
        (17, "42263c6e89f4fc28b8df68ee09799f15", 2, 0x55, "4ed31063621684f09ae8d89991af3e8f"),
        (
            18,
            "fe697b52bc0d3ce14432ba036a92e65bbb52280990a2fa27883998d72af30161",
            2,
            0x99,
            "bfab388bdcb238e9f9c98d6a878304f04d30c82556375ac507a7a852790f4674",
        ),
        (
            18,
            "fe697b52bc0d3ce14432ba036a92e65bbb52280990a2fa27883998d72af30161",
            2,
            0xaa,
            "c7cfd9cd75fe793a586a542d87e0d1396f1134a104bb1a9190b8c90ada3ddf37",
        ),
        (
            18,
            "fe697b52bc0d3ce14432ba036a92e65bbb52280990a2fa27883998d72af30161",
            2,
            0x55,
            "97151b4c76945063e2eb0529dc067d97d7bba90776d8126d91f34f3101aea8ba",
        ),
        (19, "3705d96080c17728a0e800eab6e0d23c", 2, 0x99, "b31a018a48f54776f403e9a396325dc3"),
        (19, "3705d96080c17728a0e800eab6e0d23c", 2, 0xaa, "9b197dd1e8c5609d6e67c3e37c62c72e"),
        (19, "3705d96080c17728a0e800eab6e0d23c", 2, 0x55, "9fda0e56ab2d85e1569a688696c26a6c"),
        (
            20,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            2,
            0x99,
            "ef5718be86cc84963d8bbb5031e9f5c4ba41f28faf69e73d",
        ),
        (
            20,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            2,
            0xaa,
            "56ab22bee63d82d7bc5227f6773f8ea7a5eb1c825160c38312980c442e5c7e49",
        ),
        (
            20,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            2,
            0x55,
            "69b16514e3cd8e56b82010d5c73012b622c4d00ffc23ed1f",
        ),
    ] {
        let key = Key::new(enctype, &unhex(key)).unwrap();
        assert_eq!(hex(&key.derive_for(usage, what).unwrap()), expected);
    }
}

/// RFC 8009 appendix A for the last two enctypes, MIT's `t_decrypt.c` for all: messages of MIT's, encrypted again with
/// the random block that MIT drew.
#[test]
fn messages_are_those_of_the_rfc_and_of_mit() {
    for (enctype, usage, key, plain, sealed) in [
        (17, 0, "5a5c0f0ba54f3828b2195e66ca24a289", "", "49ff8e11c173d9583a3254fbe7b1f1df36c538e8416784a1672e6676"),
        (17, 1, "98450e3f3baa13f5c99beb936981b06f", "31", "f86742f537b35dc2174a4dbaa920faf9042090b065e1ebb1cad9a65394"),
        (
            17,
            2,
            "9062430c8cda3388922e6d6a509f5b7a",
            "392062797465737373",
            "68fb9679601f45c78857b2bf820fd6e53eca8d42fd4b1d7024a09205abb7cd2ec26c355d2f",
        ),
        (
            17,
            3,
            "033ee6502c54fd23e27791e987983827",
            "31332062797465732062797465",
            "ec366d0327a933bf49330e650e49bc6b974637fe80bf532fe51795b4809718e6194724db948d1fd637",
        ),
        (
            17,
            4,
            "dceeb70b3de76562e689226c76429148",
            "333020627974657320627974657320627974657320627974657320627974",
            "c96081032d5d8eeb7e32b4089f789d0faa481dea74c0f97cbf3146ddfcf8e800156ecb532fc203e30ff600b63b350939fece510f02d7ff1e7bac",
        ),
        (
            18,
            0,
            "17f275f2954f2ed1f90c377ba7f4d6a369aa0136e0bf0c927ad6133c693759a9",
            "",
            "e5094c55ee7b38262e2b044280b069379a95bf95bd8376fb3281b435",
        ),
        (
            18,
            1,
            "b9477e1ff0329c0050e20ce6c72d2dff27e8fe541ab0954429a9cb5b4f7b1e2a",
            "31",
            "406150b97aeb76d43b36b62cc1ecdfbe6f40e95755e0beb5c27825f3a4",
        ),
        (
            18,
            2,
            "b1ae4cd8462aff1677053cc9279aac30b796fb81ce21474dd3ddbcfea4ec76d7",
            "392062797465737373",
            "09957aa25fcaf88f7b39e4406e633012d5fea21853f6478da7065caef41fd454a40824eec5",
        ),
        (
            18,
            3,
            "e5a72be9b7926c1225bafef9c1872e7ba4cdb2b17893d84abd90acdd8764d966",
            "31332062797465732062797465",
            "d8f1aafeec84587cc3e700a774e56651a6d693e174ec4473b5e6d96f80297a653fb818ad893e719f96",
        ),
        (
            18,
            4,
            "f1c795e9248a09338d82c3f8d5b567040b0110736845041347235b1404231398",
            "333020627974657320627974657320627974657320627974657320627974",
            "d1137a4d634cfece924dbc3bf6790648bd5cff7de0e7b99460211d0daef3d79a295c688858f3b34b9cbd6eebae81daf6b734d4d498b6714f1c1d",
        ),
        (
            19,
            2,
            "3705d96080c17728a0e800eab6e0d23c",
            "",
            "ef85fb890bb8472f4dab20394dca781dad877eda39d50c870c0d5a0a8e48c718",
        ),
        (
            19,
            2,
            "3705d96080c17728a0e800eab6e0d23c",
            "000102030405",
            "84d7f30754ed987bab0bf3506beb09cfb55402cef7e6877ce99e247e52d16ed4421dfdf8976c",
        ),
        (
            19,
            2,
            "3705d96080c17728a0e800eab6e0d23c",
            "000102030405060708090a0b0c0d0e0f",
            "3517d640f50ddc8ad3628722b3569d2ae07493fa8263254080ea65c1008e8fc295fb4852e7d83e1e7c48c37eebe6b0d3",
        ),
        (
            19,
            2,
            "3705d96080c17728a0e800eab6e0d23c",
            "000102030405060708090a0b0c0d0e0f1011121314",
            "720f73b18d9859cd6ccb4346115cd336c70f58edc0c4437c5573544c31c813bce1e6d072c186b39a413c2f92ca9b8334a287ffcbfc",
        ),
        (
            20,
            2,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            "",
            "41f53fa5bfe7026d91faf9be959195a058707273a96a40f0a01960621ac612748b9bbfbe7eb4ce3c",
        ),
        (
            20,
            2,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            "000102030405",
            "4ed7b37c2bcac8f74f23c1cf07e62bc7b75fb3f637b9f559c7f664f69eab7b6092237526ea0d1f61cb20d69d10f2",
        ),
        (
            20,
            2,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            "000102030405060708090a0b0c0d0e0f",
            "bc47ffec7998eb91e8115cf8d19dac4bbbe2e163e87dd37f49beca92027764f68cf51f14d798c2273f35df574d1f932e40c4ff255b36a266",
        ),
        (
            20,
            2,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            "000102030405060708090a0b0c0d0e0f1011121314",
            "40013e2df58e8751957d2878bcd2d6fe101ccfd556cb1eae79db3c3ee86429f2b2a602ac86fef6ecb647d6295fae077a1feb517508d2c16b4192e01f62",
        ),
    ] {
        let (key, plain, sealed) = (Key::new(enctype, &unhex(key)).unwrap(), unhex(plain), unhex(sealed));
        assert_eq!(*key.decrypt(usage, &sealed).unwrap(), plain);
        let mut opened = sealed[..sealed.len() - key.checksum_length()].to_vec();
        Cipher::new(&key.derive_for(usage, ENCRYPTION).unwrap()).unwrap().decrypt(&mut opened);
        let drawn = opened.first_chunk().unwrap();
        let (head, tail) = plain.split_at(plain.len() / 2);
        assert_eq!(key.encrypt_with(usage, &[head, tail], drawn).unwrap(), sealed);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.decrypt(usage, &changed).unwrap_err(), KeyError::Integrity);
            assert_eq!(key.decrypt(usage, &sealed[..at]).unwrap_err(), KeyError::Integrity);
        }
        assert_eq!(key.decrypt(usage + 1, &sealed).unwrap_err(), KeyError::Integrity);
    }
}

/// MIT's `t_cksums.c`, with RFC 8009 appendix A in it.
#[test]
fn checksums_are_those_of_the_rfc_and_of_mit() {
    for (enctype, kind, usage, key, message, expected) in [
        (
            17,
            15,
            3,
            "9062430c8cda3388922e6d6a509f5b7a",
            "6569676874206e696e652074656e20656c6576656e207477656c766520746869727465656e",
            "01a4b088d45628f6946614e3",
        ),
        (
            18,
            16,
            4,
            "b1ae4cd8462aff1677053cc9279aac30b796fb81ce21474dd3ddbcfea4ec76d7",
            "666f75727465656e",
            "e08739e3279e2903ec8e3836",
        ),
        (
            19,
            19,
            2,
            "3705d96080c17728a0e800eab6e0d23c",
            "000102030405060708090a0b0c0d0e0f1011121314",
            "d78367186643d67b411cba9139fc1dee",
        ),
        (
            20,
            20,
            2,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            "000102030405060708090a0b0c0d0e0f1011121314",
            "45ee791567eefca37f4ac1e0222de80d43c3bfa06699672a",
        ),
    ] {
        let (key, message, expected) = (Key::new(enctype, &unhex(key)).unwrap(), unhex(message), unhex(expected));
        let parts = [&message[..3], &message[3..]];
        assert_eq!((key.checksum_type(), key.checksum(usage, &parts).unwrap()), (kind, expected.clone()));
        assert!(key.verifies(usage, &parts, &expected).unwrap());
        assert!(!key.verifies(usage + 1, &parts, &expected).unwrap());
        let longer = [&expected[..], &[0]].concat();
        // A part of the code is none, and neither is the whole one.
        for wrong in [&expected[1..], &expected[..expected.len() - 1], &expected[..1], &longer, &[]] {
            assert!(!key.verifies(usage, &parts, wrong).unwrap());
        }
    }
}

#[test]
fn what_is_encrypted_is_decrypted_and_never_twice_the_same() {
    for enctype in [17, 18, 19, 20] {
        let key = Key::random(enctype, counting).unwrap();
        for length in (0..70).chain([4096, 4097]) {
            let plain: Vec<u8> = (0..length).map(|at: usize| at.to_be_bytes()[7]).collect();
            let sealed = key.encrypt(9, &[&plain], counting).unwrap();
            assert_eq!(*key.decrypt(9, &sealed).unwrap(), plain);
            assert_ne!(sealed, key.encrypt(9, &[&plain], counting).unwrap());
        }
    }
}

#[test]
fn keys_of_other_enctypes_or_lengths_are_refused_and_none_is_shown() {
    for enctype in [0, 1, 3, 16, 23, 24, 25, 26, -133, i32::MIN] {
        assert_eq!(Key::new(enctype, &[0; 16]).unwrap_err(), KeyError::Enctype(enctype));
        assert_eq!(Key::from_password(enctype, "", b"", None).unwrap_err(), KeyError::Enctype(enctype));
    }
    for (enctype, length) in [(17, 32), (18, 16), (19, 15), (20, 33), (18, 0)] {
        assert_eq!(Key::new(enctype, &vec![0; length]).unwrap_err(), KeyError::Length);
    }
    assert_eq!(format!("{:?}", Key::new(17, b"sixteen  letters").unwrap()), "Key(enctype 17)");
}
