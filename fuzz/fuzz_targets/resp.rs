//! What a client of the Redis protocol sends: the same requests however its bytes arrive.
//!
//! The input's first byte says who sends and how long the pieces are; the rest is sent.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use raft_rocks_server::resp::{Broken, Input, Limits, Received, is_command};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, sent)) = bytes.split_first() else {
        return;
    };
    let limits = match first & 1 {
        0 => &Limits::STRANGER,
        _ => &Limits::KNOWN,
    };
    let piece = usize::from(first >> 1).max(1);
    let whole = requests([sent].into_iter(), limits);
    assert_eq!(whole, requests(sent.chunks(piece), limits));
    for words in whole.0 {
        check_words(words, limits);
    }
});

/// What comes of it, and what broke it.
fn requests<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    limits: &Limits,
) -> (Vec<Option<Vec<Bytes>>>, Option<Broken>) {
    let (mut input, mut found) = (Input::default(), Vec::new());
    for piece in pieces {
        input.bytes.extend_from_slice(piece);
        loop {
            match input.next(limits) {
                Ok(Received::Request(words)) => found.push(Some(words)),
                Ok(Received::Unbalanced) => found.push(None),
                Ok(Received::Part { needed }) => {
                    check_needed(needed, input.bytes.len(), limits);
                    break;
                }
                Err(broken) => return (found, Some(broken)),
            }
        }
    }
    (found, None)
}

/// More than there is, or the reader would turn in circles; never more than may come.
fn check_needed(needed: usize, there: usize, limits: &Limits) {
    assert!(needed > there);
    let most = limits.request_bytes.max(limits.inline_bytes);
    assert!(needed <= most + 64, "{needed} of {most}");
}

fn check_words(words: Option<Vec<Bytes>>, limits: &Limits) {
    let Some(words) = words else { return };
    let bytes: usize = words.iter().map(Bytes::len).sum();
    assert!(bytes <= limits.request_bytes.max(limits.inline_bytes));
    // Whatever they mean, there is an answer.
    if !words.is_empty() {
        is_command(words);
    }
}
