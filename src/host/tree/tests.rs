#![expect(clippy::disallowed_methods, reason = "tests plant files")]

use super::*;

#[test]
fn a_folder_that_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("gmsa-sidecar/src")).unwrap();
    fs::write(folder.path().join("gmsa-sidecar/src/main.rs"), "somebody's work").unwrap();
    let fault = Tree::open(folder.path().join("krbdir")).unwrap_err();
    assert_eq!(fault.code, Code::VolumeNotWritable);
    assert!(folder.path().join("gmsa-sidecar/src/main.rs").exists());
}

#[test]
fn unfinished_leases_go_unless_a_container_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::open(folder.path().join("krbdir")).unwrap();
    let (gone, mounted): (LeaseId, LeaseId) = ("gone".parse().unwrap(), "mounted".parse().unwrap());
    let account: Folder = "WebApp01".parse().unwrap();
    for id in [&gone, &mounted] {
        tree.begin(id, [&account].into_iter()).unwrap();
    }
    fs::create_dir_all(folder.path().join("krbdir/theirs/WebApp01")).unwrap();
    let in_use = tree.folder(&mounted, &account);
    assert_eq!(tree.load(|path| path == in_use), []);
    assert!(in_use.exists() && !tree.folder(&gone, &account).exists());
    assert!(folder.path().join("krbdir/theirs").exists(), "what others left is theirs");
}

#[test]
fn removing_follows_no_link() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::open(folder.path().join("krbdir")).unwrap();
    let (id, account): (LeaseId, Folder) = ("a".parse().unwrap(), "WebApp01".parse().unwrap());
    tree.begin(&id, [&account].into_iter()).unwrap();
    fs::create_dir(folder.path().join("precious")).unwrap();
    fs::write(folder.path().join("precious/file"), "x").unwrap();
    std::os::unix::fs::symlink(folder.path().join("precious"), tree.folder(&id, &account).join("link")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("precious"), folder.path().join("krbdir/linked")).unwrap();
    tree.remove(&id).unwrap();
    let linked: LeaseId = "linked".parse().unwrap();
    let _ = tree.remove(&linked);
    assert!(folder.path().join("precious/file").exists());
    assert!(!folder.path().join("krbdir/a").exists());
}

/// Whoever owns the folder of an account may put folders within folders into it, deeper than there are file descriptors or
/// than a stack is.
#[test]
fn however_deep_a_container_nests_folders_its_lease_can_be_removed() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::open(folder.path().join("krbdir")).unwrap();
    let (id, account): (LeaseId, Folder) = ("a".parse().unwrap(), "WebApp01".parse().unwrap());
    tree.begin(&id, [&account].into_iter()).unwrap();
    let mut inner = fs::File::open(tree.folder(&id, &account)).unwrap();
    for _ in 0..3000 {
        os::mkdirat(&inner, "d", Bits::RWXU).unwrap();
        os::mkdirat(&inner, "beside it", Bits::RWXU).unwrap();
        inner = os::openat(&inner, "d", OFlags::DIRECTORY, Bits::empty()).unwrap().into();
    }
    os::mkdirat(&inner, "closed", Bits::empty()).unwrap();
    drop(inner);
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..before }).unwrap();
    let small = std::thread::Builder::new().stack_size(128 * 1024);
    let removed = small.spawn(move || tree.remove(&id).map_err(|fault| fault.to_string())).unwrap().join().unwrap();
    setrlimit(Resource::Nofile, before).unwrap();
    assert_eq!(removed, Ok(()));
    assert!(!folder.path().join("krbdir/a").exists());
}
