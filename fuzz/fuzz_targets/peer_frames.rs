//! What another node sends: any bytes are a packet or an error, and a packet is written as it is
//! read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raft_rocks::driver::{FRAME_BYTES_MAX, Packet};

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = Packet::decode(bytes) else {
        return;
    };
    // Any lane will do: there is one.
    let _ = packet.lane();
    match packet.clone().encode() {
        Ok(written) => {
            assert!(written.len() <= FRAME_BYTES_MAX);
            assert_eq!(Packet::decode(&written), Ok(packet));
        }
        // What leaves defaults out may be longer when they are written.
        Err(_) => assert!(bytes.len() > FRAME_BYTES_MAX / 2),
    }
});
