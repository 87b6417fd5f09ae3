//! Requests out of what has been received.

use bytes::{Buf, Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;

use super::framing::{Broken, Framed, Limits, Scanner};

/// What a client sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Not enough for a request; `needed`: the bytes that there will be at least.
    Part {
        /// As far as it is known.
        needed: usize,
    },
    /// The command and its arguments; none: nothing is answered.
    Request(Vec<Bytes>),
    /// A line whose quotes do not match: an error reply.
    Unbalanced,
}

/// What has been received and not been taken as a request yet.
#[derive(Debug, Default)]
pub struct Input {
    /// As it has come.
    pub bytes: BytesMut,
    scanner: Scanner,
}

impl Input {
    /// Takes the next request.
    ///
    /// # Errors
    /// The connection cannot go on.
    pub fn next(&mut self, limits: &Limits) -> Result<Received, Broken> {
        let framed = self.scanner.scan(&self.bytes, limits)?;
        if !matches!(framed, Framed::Part { .. }) {
            self.scanner = Scanner::default();
        }
        match framed {
            Framed::Part { needed } => Ok(Received::Part { needed }),
            Framed::Array(length) => array(self.bytes.split_to(length)).map(Received::Request),
            Framed::Line(length) => {
                let line = self.bytes.split_to(length);
                Ok(words(&line).map_or(Received::Unbalanced, Received::Request))
            }
        }
    }
}

fn array(mut request: BytesMut) -> Result<Vec<Bytes>, Broken> {
    // An empty array, which Redis passes over; the library takes one of less than nothing for a
    // null.
    if request.first_chunk() == Some(b"*-") || request.starts_with(b"*0\r") {
        request.advance(request.len());
        return Ok(Vec::new());
    }
    let decoded = decode_bytes_mut(&mut request).ok().flatten();
    let Some((BytesFrame::Array(frames), ..)) = decoded else {
        return Err(Broken::End);
    };
    let argument = |frame| match frame {
        BytesFrame::BulkString(bytes) => Ok(bytes),
        _ => Err(Broken::End),
    };
    frames.into_iter().map(argument).collect()
}

/// The words of a line, as Redis splits it: quoted ones may hold anything. `None`: a quote is
/// not closed, or something stands right behind one.
fn words(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut line = line;
    let mut words = Vec::new();
    loop {
        line = line.trim_ascii_start();
        if line.is_empty() {
            return Some(words);
        }
        let (word, rest) = word(line)?;
        words.push(Bytes::from(word));
        line = rest;
    }
}

fn word(mut line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match line {
            [] => return Some((word, line)),
            [space, ..] if space.is_ascii_whitespace() => return Some((word, line)),
            [quote @ (b'"' | b'\''), rest @ ..] => {
                let rest = quoted(*quote, rest, &mut word)?;
                let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
                return ends.then_some((word, rest));
            }
            [byte, rest @ ..] => {
                word.push(*byte);
                line = rest;
            }
        }
    }
}

/// Takes up to the closing quote; what stands behind it.
fn quoted<'a>(quote: u8, mut line: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        line = match line {
            [] => return None,
            [byte, rest @ ..] if *byte == quote => return Some(rest),
            [b'\\', b'x', high, low, rest @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                rest
            }
            [b'\\', byte, rest @ ..] if quote == b'"' => {
                word.push(unescaped(*byte));
                rest
            }
            [b'\\', b'\'', rest @ ..] => {
                word.push(b'\'');
                rest
            }
            [byte, rest @ ..] => {
                word.push(*byte);
                rest
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<Received> {
        let mut of = Input::default();
        of.bytes.extend_from_slice(input);
        let mut found = Vec::new();
        loop {
            match of.next(&Limits::KNOWN).unwrap() {
                Received::Part { .. } => return found,
                received => found.push(received),
            }
        }
    }

    fn request(words: &[&[u8]]) -> Received {
        let words = words.iter().map(|word| Bytes::copy_from_slice(word));
        Received::Request(words.collect())
    }

    #[test]
    fn requests_follow_each_other_in_both_forms() {
        let input =
            b"*2\r\n$3\r\nGET\r\n$1\r\n\0\r\nPING\r\n\r\n*0\r\n*-1\r\nECHO x\n*1\r\n$4\r\nPI";
        let found = all(input);
        let expected = [
            request(&[b"GET", b"\0"]),
            request(&[b"PING"]),
            request(&[]),
            request(&[]),
            request(&[]),
            request(&[b"ECHO", b"x"]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_line_is_split_as_redis_does() {
        let found = all(b"SET \"a b\\x41\\n\" 'c\\'d\\n' e\"f\"\r\n");
        assert_eq!(found, [request(&[b"SET", b"a bA\n", b"c'd\\n", b"ef"])]);
        for unbalanced in [&b"SET \"a\n"[..], b"SET 'a\n", b"SET \"a\"b\n", b"\"\\\n"] {
            assert_eq!(all(unbalanced), [Received::Unbalanced]);
        }
    }
}
