//! What a power cut would leave, put together from what the shim wrote down.

use std::collections::BTreeMap;
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

    /// Makes `to` what the root would be after a power cut. Of the files in `root` that `kept`
    /// says so of, what had not been synced is there as well: it had been written back.
    pub fn restore(&self, root: &Path, to: &Path, mut kept: impl FnMut() -> bool) {
        let mut written_back = BTreeMap::new();
        list(root, &mut |path, inode| {
            if kept() {
                written_back.insert(inode, path);
            }
        });
        self.restore_dir(self.root_inode, to, &written_back);
    }

    fn restore_dir(&self, inode: u64, to: &Path, written_back: &BTreeMap<u64, PathBuf>) {
        fs::create_dir_all(to).unwrap();
        let names = fs::read_to_string(self.of.join(format!("{inode}.dir"))).unwrap_or_default();
        for line in names.lines() {
            let mut parts = line.splitn(3, ' ');
            let mut part = || parts.next().unwrap();
            let (letter, inode, path) = (part(), part(), to.join(part()));
            let inode = inode.parse().unwrap();
            if letter == "d" {
                self.restore_dir(inode, &path, written_back);
                continue;
            }
            let synced = self.of.join(inode.to_string());
            let bytes = match written_back.get(&inode) {
                Some(now) => fs::read(now).unwrap(),
                // One that was never synced is empty.
                None => fs::read(synced).unwrap_or_default(),
            };
            fs::write(path, bytes).unwrap();
        }
    }
}

/// The files below `dir`, in the order of their names.
fn list(dir: &Path, found: &mut impl FnMut(PathBuf, u64)) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let info = fs::metadata(&path).unwrap();
        if info.is_dir() {
            list(&path, found);
        } else {
            found(path, info.ino());
        }
    }
}
