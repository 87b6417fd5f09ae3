//! What a power cut would leave, put together from what the shim wrote down.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Places;

/// The bytes of each inode when it was last synced, and the names in each directory when it was.
pub struct Durable {
    of: PathBuf,
    root_inode: u64,
}

impl Durable {
    /// Everything that is there now is durable; to be called before the process starts.
    pub fn of(places: &Places) -> Durable {
        let durable = Durable {
            of: places.outside.join("durable"),
            root_inode: fs::metadata(&places.root).unwrap().ino(),
        };
        durable.take(&places.root);
        durable
    }

    fn take(&self, dir: &Path) {
        let mut names = String::new();
        for file in fs::read_dir(dir).unwrap() {
            let file = file.unwrap();
            let (path, info) = (file.path(), file.metadata().unwrap());
            let name = file.file_name().into_string().unwrap();
            let letter = if info.is_dir() { 'd' } else { 'f' };
            names.push_str(&format!("{letter} {} {name}\n", info.ino()));
            if info.is_dir() {
                self.take(&path);
            } else {
                fs::copy(&path, self.of.join(info.ino().to_string())).unwrap();
            }
        }
        let inode = fs::metadata(dir).unwrap().ino();
        fs::write(self.of.join(format!("{inode}.dir")), names).unwrap();
    }

    /// Makes `to` what the root would be after a power cut.
    pub fn restore(&self, to: &Path) {
        self.restore_dir(self.root_inode, to);
    }

    fn restore_dir(&self, inode: u64, to: &Path) {
        fs::create_dir_all(to).unwrap();
        let names = fs::read_to_string(self.of.join(format!("{inode}.dir"))).unwrap_or_default();
        for line in names.lines() {
            let mut parts = line.splitn(3, ' ');
            let mut part = || parts.next().unwrap();
            let (letter, inode, path) = (part(), part(), to.join(part()));
            if letter == "d" {
                self.restore_dir(inode.parse().unwrap(), &path);
            } else {
                // One that was never synced is empty.
                let bytes = fs::read(self.of.join(inode)).unwrap_or_default();
                fs::write(path, bytes).unwrap();
            }
        }
    }
}
