//! What was measured on: a report without it says nothing.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The machine, as far as the kernel tells.
#[derive(Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    /// File system and device of the measured directory.
    disk: String,
    ram_disk: String,
    /// Whether RocksDB was built with the CPU's CRC instructions.
    crc_instructions: bool,
    version: &'static str,
}

impl Machine {
    /// This one.
    pub fn here(dir: &Path, ram_dir: &Path) -> Self {
        let crc_instructions = cfg!(any(
            all(target_arch = "x86_64", target_feature = "sse4.2"),
            all(target_arch = "aarch64", target_feature = "crc")
        ));
        let kib = field("/proc/meminfo", "MemTotal").replace("kB", "");
        Machine {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kib.trim().parse::<u64>().unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk: file_system(dir),
            ram_disk: file_system(ram_dir),
            crc_instructions,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let crc = if self.crc_instructions {
            ""
        } else {
            ", RocksDB without CRC instructions"
        };
        format!(
            "{}, {} cores, {} MiB, Linux {}, {} (RAM disk: {}){crc}",
            self.cpu, self.cores, self.memory_mib, self.kernel, self.disk, self.ram_disk
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(|| "unknown".to_owned())
}

/// The type and device of the mount that a directory is in: the one with the longest path.
fn file_system(dir: &Path) -> String {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let mounts = read("/proc/self/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        dir.starts_with(place)
            .then(|| (place.len(), format!("{kind} on {device}")))
    });
    let longest = mounts.max_by_key(|(len, _)| *len);
    longest.map_or_else(|| "unknown".to_owned(), |(_, text)| text)
}
