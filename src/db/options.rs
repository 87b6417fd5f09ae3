//! How the store's own database is set up.

use rocksdb::{BlockBasedOptions, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode};

use crate::config::{Options, RAFT_COLUMN_FAMILY};
use crate::keys;

/// Entries are read in runs: larger blocks than RocksDB's default of 4 KiB are fewer to find.
const BLOCK_LEN: usize = 16 << 10;

/// One is written, and one for each memtable that waits to be flushed: RocksDB allows two.
const RECYCLED_LOGS_MAX: usize = 2;

pub(super) fn rocks_options(options: &Options) -> rocksdb::Options {
    let mut rocks = rocksdb::Options::default();
    rocks.create_if_missing(true);
    rocks.create_missing_column_families(true);
    // An entry follows the one before it in its group: remembering where that one stands
    // spares most of the search for its place.
    if let Ok(hinted) = rocks.get_options_from_string(insert_hint()) {
        rocks = hinted;
    }
    let mut table = BlockBasedOptions::default();
    table.set_block_size(BLOCK_LEN);
    rocks.set_block_based_table_factory(&table);
    // RocksDB would switch logs with unsynced writes in them: `switch_wal` comes first. Not
    // more than needed: as much is allocated for each log.
    rocks.set_write_buffer_size(options.memtable_bytes.saturating_mul(3) / 2);
    rocks.set_max_total_wal_size(u64::MAX);
    // The entries of a log are mostly gone before they reach a lower level.
    rocks.set_compression_type(DBCompressionType::None);
    // docs/durability.md says what each mode does to which damage, and why these.
    if options.recycle_wal {
        rocks.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        rocks.set_recycle_log_file_num(RECYCLED_LOGS_MAX);
    } else {
        rocks.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        rocks.set_recycle_log_file_num(0);
    }
    rocks.set_track_and_verify_wals_in_manifest(true);
    rocks.set_paranoid_checks(true);
    // Half of the time to open a small store: threads that open its few files, and blocks for
    // a MANIFEST that stays small.
    rocks.set_max_file_opening_threads(1);
    rocks.set_manifest_preallocation_size(64 << 10);
    // RocksDB's own log of events: bounded, and no periodic statistics in it.
    rocks.set_keep_log_file_num(4);
    rocks.set_max_log_file_size(4 << 20);
    rocks.set_stats_dump_period_sec(0);
    rocks.set_stats_persist_period_sec(0);
    rocks.set_skip_stats_update_on_db_open(true);
    if options.statistics {
        rocks.enable_statistics();
    }
    rocks
}

/// In RocksDB's own words: its C interface has no other way to set it.
fn insert_hint() -> String {
    format!(
        "memtable_insert_with_hint_prefix_extractor={{id=rocksdb.FixedPrefix.{}}}",
        keys::ENTRIES_PREFIX_LEN
    )
}

/// The families of the application get the same options as the log: theirs to tune through
/// [`with_db`](crate::RaftStore::with_db).
pub(super) fn descriptors<'a>(
    options: &Options,
    families: impl IntoIterator<Item = &'a String>,
) -> Vec<ColumnFamilyDescriptor> {
    let others = families
        .into_iter()
        .map(String::as_str)
        .filter(|name| *name != RAFT_COLUMN_FAMILY);
    std::iter::once(RAFT_COLUMN_FAMILY)
        .chain(others)
        .map(|name| ColumnFamilyDescriptor::new(name, rocks_options(options)))
        .collect()
}

/// Logs once per process that RocksDB computes its checksums in software.
pub(crate) fn report_slow_build() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let slow = cfg!(all(target_arch = "x86_64", not(target_feature = "sse4.2")))
        || cfg!(all(target_arch = "aarch64", not(target_feature = "crc")));
    if slow {
        ONCE.call_once(|| {
            log::warn!(
                "RocksDB was built without the CPU's CRC instructions, which slows every append; \
                 see \"CPU features\" in the README of raft-rocks"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rocksdb_knows_the_option_that_is_set_in_words() {
        let mut options = rocksdb::Options::default();
        options.get_options_from_string(insert_hint()).unwrap();
    }
}
