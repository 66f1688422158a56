//! What kind of file system the database is on.
//!
//! In WAL mode SQLite keeps an index of the `-wal` in memory that all processes share, and locks bytes of files. On a file
//! system that several machines mount neither reaches the others, so that two of them write over each other's work.

use std::path::Path;

use nix::sys::statfs::{FsType, statfs};

use crate::{Error, Result};

/// Whether a file system belongs to one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It does.
    Local,
    /// Others can mount it: no place for the database.
    Network,
    /// It is unknown: a file system in user space, or one that a host shares with its guest.
    Unsure,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name as the kernel has it, `ext4`, `nfs4`, `fuse.sshfs`; a number if that cannot be read.
    pub kind: String,
    /// Whether it belongs to this machine alone.
    pub reach: Reach,
}

/// File systems that several machines share.
const NETWORK: &[&str] = &[
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "orangefs",
    "smb3",
    "smbfs",
    "vboxsf",
    "vmhgfs",
];
/// The same, in user space.
const NETWORK_FUSE: &[&str] =
    &["ceph-fuse", "curlftpfs", "davfs2", "gcsfuse", "glusterfs", "juicefs", "rclone", "s3fs", "sshfs", "vmhgfs-fuse"];

impl FileSystem {
    /// The file system that a file or folder is on.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let number = statfs(path)?.filesystem_type();
        let path = path.canonicalize()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let kind = kind_in(&mounts, &path)
            .unwrap_or_else(|| by_number(number).map_or_else(|| format!("{:#x}", number.0), str::to_owned));
        Ok(Self { reach: reach(&kind), kind })
    }

    /// Refuses a folder that several machines share. An unknown file system is accepted: to be wrong about a local folder
    /// would keep its owner out for nothing.
    ///
    /// # Errors
    /// [`Error::NetworkFileSystem`], about the database that is, or would be, there.
    pub fn allow(folder: &Path, database: &Path) -> Result<()> {
        // Most are known by their number, without reading the list of mounts.
        if statfs(folder).is_ok_and(|stat| by_number(stat.filesystem_type()).is_none()) {
            return Ok(());
        }
        match Self::of(folder) {
            Ok(Self { kind, reach: Reach::Network }) => Err(Error::NetworkFileSystem { path: database.to_owned(), kind }),
            _ => Ok(()),
        }
    }
}

/// What the kernel gives as a number, if it is none of the many that are local.
fn by_number(number: FsType) -> Option<&'static str> {
    Some(match number.0 {
        0x6969 => "nfs",
        0x517b => "smbfs",
        0xff53_4d42 => "cifs",
        0xfe53_4d42 => "smb3",
        0x00c3_6400 => "ceph",
        0x0bd0_0bd0 => "lustre",
        0x1983_0326 => "beegfs",
        0x2003_0528 => "orangefs",
        0x4750_4653 => "gpfs",
        0x5346_414f => "afs",
        0x564c => "ncpfs",
        0x7375_7245 => "coda",
        0x786f_4256 => "vboxsf",
        0xbacb_acbc => "vmhgfs",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        _ => return None,
    })
}

fn reach(kind: &str) -> Reach {
    let in_user_space = kind.strip_prefix("fuse.");
    if NETWORK.contains(&kind) || in_user_space.is_some_and(|kind| NETWORK_FUSE.contains(&kind)) {
        Reach::Network
    } else if in_user_space.is_some() || ["fuse", "9p"].contains(&kind) {
        Reach::Unsure
    } else {
        Reach::Local
    }
}

/// The kind of the mount that a path is on, from the text of `/proc/self/mountinfo`: the deepest one above it, and of two in
/// one place the later.
fn kind_in(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4) else { continue };
        let Some(kind) = fields.skip_while(|field| *field != "-").nth(1) else { continue };
        let point = unescaped(point);
        let depth = Path::new(&point).components().count();
        if path.starts_with(&point) && best.is_none_or(|(deepest, _)| depth >= deepest) {
            best = Some((depth, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Blanks, tabs, line ends and backslashes stand there as three octal digits.
fn unescaped(text: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:41 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
31 30 0:42 / /home/ann/local rw,relatime - xfs /dev/vdb rw
32 22 0:43 / /mnt/my\\040files rw,nosuid master:3 propagate_from:2 - fuse.sshfs ann@far:/ rw
33 22 0:44 / /mnt/usb rw - fuseblk /dev/sdb1 rw
34 22 0:45 / /mnt/notes rw - fuse.gocryptfs notes rw
35 22 0:46 / /data rw - cifs //nas/data rw
36 22 254:1 / /data rw - btrfs /dev/vdc rw
37 22 0:47 / /drive rw - 9p drvfs rw
a line that is none
";

    #[test]
    fn the_deepest_mount_above_a_path_says_whose_it_is() {
        for (path, kind, expected) in [
            ("/srv/x.db", "ext4", Reach::Local),
            ("/home/ann/x.db", "nfs4", Reach::Network),
            ("/home/ann/local/x.db", "xfs", Reach::Local),
            ("/home/ann/locality", "nfs4", Reach::Network),
            ("/mnt/my files/deep/x.db", "fuse.sshfs", Reach::Network),
            ("/mnt/my", "ext4", Reach::Local),
            ("/mnt/usb/x.db", "fuseblk", Reach::Local),
            ("/mnt/notes/x.db", "fuse.gocryptfs", Reach::Unsure),
            ("/data/x.db", "btrfs", Reach::Local),
            ("/drive/x.db", "9p", Reach::Unsure),
        ] {
            assert_eq!(kind_in(MOUNTS, Path::new(path)).as_deref(), Some(kind), "{path}");
            assert_eq!(reach(kind), expected, "{kind}");
        }
        assert_eq!(kind_in("", Path::new("/")), None);
        assert_eq!(by_number(FsType(0x6969)).map(reach), Some(Reach::Network));
        assert_eq!(by_number(FsType(0xef53)), None);
    }

    #[test]
    fn this_machines_own_folders_are_told() {
        assert_eq!(FileSystem::of(Path::new("/proc")).unwrap(), FileSystem { kind: "proc".to_owned(), reach: Reach::Local });
        assert!(FileSystem::of(Path::new("/nowhere/at/all")).is_err());
    }
}
