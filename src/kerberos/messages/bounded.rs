//! Text and lists of a stranger's messages, with a bound on each.

use der::{Decode, DecodeValue, Encode, EncodeValue, FixedTag, Header, Length, Reader, Tag, Writer};

/// `KerberosString`: a GeneralString that AD fills with UTF-8. One of more than 1024 octets is refused: no name, realm or
/// salt comes near that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KerberosString(pub(crate) String);

const STRING_LIMIT: u16 = 1024;

impl FixedTag for KerberosString {
    const TAG: Tag = Tag::GeneralString;
}

impl<'a> DecodeValue<'a> for KerberosString {
    type Error = der::Error;

    fn decode_value<R: Reader<'a>>(reader: &mut R, header: Header) -> der::Result<Self> {
        if header.length() > Length::from(STRING_LIMIT) {
            return Err(Self::TAG.length_error().into());
        }
        let octets = reader.read_vec(header.length())?;
        String::from_utf8(octets).map(Self).map_err(|_| Self::TAG.value_error().into())
    }
}

impl EncodeValue for KerberosString {
    fn value_len(&self) -> der::Result<Length> {
        Length::try_from(self.0.len())
    }

    fn encode_value(&self, writer: &mut impl Writer) -> der::Result<()> {
        writer.write(self.0.as_bytes())
    }
}

/// Text for people, of which the beginning is kept, whatever it is encoded in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl FixedTag for Text {
    const TAG: Tag = Tag::GeneralString;
}

impl<'a> DecodeValue<'a> for Text {
    type Error = der::Error;

    fn decode_value<R: Reader<'a>>(reader: &mut R, header: Header) -> der::Result<Self> {
        let octets = reader.read_slice(header.length())?;
        let beginning = &octets[..octets.len().min(usize::from(STRING_LIMIT))];
        Ok(Self(String::from_utf8_lossy(beginning).into_owned()))
    }
}

impl EncodeValue for Text {
    fn value_len(&self) -> der::Result<Length> {
        Length::try_from(self.0.len())
    }

    fn encode_value(&self, writer: &mut impl Writer) -> der::Result<()> {
        writer.write(self.0.as_bytes())
    }
}

/// A `SEQUENCE OF`. One of more than 64 values is refused: KDCs send a handful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundedList<T>(pub(crate) Vec<T>);

const LIST_LIMIT: usize = 64;

impl<T> Default for BoundedList<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> std::ops::Deref for BoundedList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> FixedTag for BoundedList<T> {
    const TAG: Tag = Tag::Sequence;
}

impl<'a, T: Decode<'a, Error = der::Error>> DecodeValue<'a> for BoundedList<T> {
    type Error = der::Error;

    fn decode_value<R: Reader<'a>>(reader: &mut R, _header: Header) -> der::Result<Self> {
        let mut values = Vec::new();
        while !reader.is_finished() {
            if values.len() == LIST_LIMIT {
                return Err(Self::TAG.length_error().into());
            }
            values.push(T::decode(reader)?);
        }
        Ok(Self(values))
    }
}

impl<T: Encode> EncodeValue for BoundedList<T> {
    fn value_len(&self) -> der::Result<Length> {
        self.0.value_len()
    }

    fn encode_value(&self, writer: &mut impl Writer) -> der::Result<()> {
        self.0.encode_value(writer)
    }
}
