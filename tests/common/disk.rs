//! A small file system: one that can be filled, or lose power, so that everything that was not
//! synced is gone.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests: each test uses some of them, and a failure may stop it"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PAGE: u64 = 4096;
/// How long others may keep a disk busy.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(20);
/// `_IOR('X', 125, __u32)` (`fs/ext4/ext4.h` of Linux).
const EXT4_IOC_SHUTDOWN: libc::c_ulong =
    (2 << 30) | (4 << 16) | ((b'X' as libc::c_ulong) << 8) | 125;
/// Not even the journal is written out first.
const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;

/// An image file, in memory where that is possible, and the directory it is mounted on.
/// Unmounted when dropped; the loop device goes with the mount.
pub struct Disk {
    dir: TempDir,
    mounted: bool,
}

impl Disk {
    /// Makes an ext4 file system of this size and mounts it.
    ///
    /// # Errors
    /// Says what this machine lacks: root, loop devices, or the tools.
    pub fn ext4(bytes: u64) -> Result<Disk, String> {
        let mut disk = Disk::unmounted()?;
        let image = File::create(disk.image()).map_err(|e| e.to_string())?;
        image.set_len(bytes).map_err(|e| e.to_string())?;
        // Without lazy initialisation, which would write at moments of its own.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4")
            // No blocks for root alone: what is free is free for all.
            .args(["-q", "-F", "-m", "0", "-E", options])
            .arg(disk.image()))?;
        disk.mount()?;
        Ok(disk)
    }

    /// A file system in memory.
    ///
    /// # Errors
    /// Says what this machine lacks: root.
    pub fn tmpfs(bytes: u64) -> Result<Disk, String> {
        let mut disk = Disk::unmounted()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]);
        run(mount.arg(disk.mount_point()))?;
        disk.mounted = true;
        Ok(disk)
    }

    fn unmounted() -> Result<Disk, String> {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.map_err(|e| e.to_string())?;
        let disk = Disk {
            dir,
            mounted: false,
        };
        std::fs::create_dir(disk.mount_point()).map_err(|e| e.to_string())?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// The directory of the store on this disk.
    pub fn store(&self) -> PathBuf {
        self.mount_point().join("store")
    }

    /// A file that no power cut touches.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes to a file beside the store until nothing more goes in; returns how much did.
    pub fn fill(&self) -> u64 {
        let file = File::create(self.filling()).unwrap();
        let (mut len, mut synced) = (0, None);
        // Removed files give their room back with the next sync.
        while synced != Some(len) {
            synced = Some(len);
            let mut piece = vec![7; 1 << 20];
            while !piece.is_empty() {
                match file.write_all_at(&piece, len) {
                    Ok(()) => len += piece.len() as u64,
                    Err(_) => piece.truncate(piece.len() / 2),
                }
            }
            // What has been handed over and not been given a place may fail here.
            let _ = file.sync_all();
        }
        len
    }

    /// Takes away what filled it, but for `left` bytes.
    pub fn make_room(&self, left: u64) {
        let file = File::options().write(true).open(self.filling()).unwrap();
        file.set_len(left).unwrap();
        file.sync_all().unwrap();
    }

    fn filling(&self) -> PathBuf {
        self.mount_point().join("filling")
    }

    /// The power is gone: what was not synced will not be there after [`Disk::remount`].
    pub fn cut(&self) -> io::Result<()> {
        shutdown(&File::open(self.mount_point())?)
    }

    /// Comes back after a power cut: the journal is replayed.
    pub fn remount(&mut self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<(), String> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop"]);
        run(mount.arg(self.image()).arg(self.mount_point()))?;
        self.mounted = true;
        Ok(())
    }

    /// A process that another test begins has our files open until it has become what it is to be:
    /// on a machine with much to do the disk is busy for a while.
    #[expect(
        clippy::disallowed_methods,
        reason = "between two tries; the kernel tells nobody"
    )]
    fn unmount(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + UNMOUNT_PATIENCE;
        loop {
            match run(Command::new("umount").arg(self.mount_point())) {
                Ok(()) => break,
                Err(e) if !e.contains("busy") || Instant::now() >= deadline => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        self.mounted = false;
        Ok(())
    }

    /// Writes back a random part of what is dirty, as a kernel under pressure would: single
    /// pages of some files and, unless it is a control that must lose something, some files as
    /// a whole, out of order.
    pub fn write_back_some(&self, random: &mut fastrand::Rng, whole: bool) -> io::Result<()> {
        let mut files = Vec::new();
        list(&self.mount_point(), &mut files)?;
        random.shuffle(&mut files);
        for path in files {
            // A file that was removed in the meantime has nothing to write back.
            let Ok(file) = OpenOptions::new().read(true).open(&path) else {
                continue;
            };
            match random.u8(..8) {
                0 if whole => file.sync_data()?,
                1..5 => write_back_pages(&file, random)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted
            && let Err(e) = self.unmount()
        {
            eprintln!("{e}; detached instead");
            let _ = run(Command::new("umount").arg("--lazy").arg(self.mount_point()));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}: {}", output.status, stderr.trim()))
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        // The child may have removed it since.
        match file.file_type() {
            Ok(kind) if kind.is_dir() => list(&file.path(), files)?,
            Ok(_) => files.push(file.path()),
            Err(_) => {}
        }
    }
    Ok(())
}

fn write_back_pages(file: &File, random: &mut fastrand::Rng) -> io::Result<()> {
    let pages = file.metadata()?.len().div_ceil(PAGE);
    for page in 0..pages {
        if random.bool() {
            write_back(file, page * PAGE)?;
        }
    }
    Ok(())
}

fn shutdown(root: &File) -> io::Result<()> {
    let flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
    #[expect(unsafe_code, reason = "no crate offers this ioctl; it reads one u32")]
    let failed = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn write_back(file: &File, from: u64) -> io::Result<()> {
    let (from, len) = (from.cast_signed(), PAGE.cast_signed());
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    #[expect(
        unsafe_code,
        reason = "no crate offers this call; it reads no memory of ours"
    )]
    let failed = unsafe { libc::sync_file_range(file.as_raw_fd(), from, len, flags) };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
