//! Where a request ends, found before anything is allocated or decoded; pure.
//!
//! A request is an array of bulk strings, or a line. What it declares is compared with the limits
//! as soon as it is read, and nothing is made room for until its bytes have come.

/// What one request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arguments, the command's name among them.
    pub arguments: usize,
    /// Bytes of one of them.
    pub bulk_bytes: usize,
    /// Bytes of all of them, and of what frames them.
    pub request_bytes: usize,
    /// Bytes of a line.
    pub inline_bytes: usize,
}

impl Limits {
    /// For who has not said yet who he is.
    pub const STRANGER: Limits = Limits {
        arguments: 10,
        bulk_bytes: 16 << 10,
        request_bytes: 16 << 10,
        inline_bytes: 16 << 10,
    };

    /// For everybody else.
    pub const KNOWN: Limits = Limits {
        arguments: 1024,
        bulk_bytes: 1 << 20,
        request_bytes: 2 << 20,
        inline_bytes: 64 << 10,
    };
}

/// The framing is broken: where the next request begins is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A line that should end has not.
    #[error("Protocol error: too big inline request: at most {0} bytes")]
    Inline(usize),
    /// A length is no number, or beyond the limits.
    #[error("Protocol error: invalid multibulk length: at most {0} arguments")]
    Arguments(usize),
    /// As above.
    #[error("Protocol error: invalid bulk length: at most {0} bytes")]
    Bulk(usize),
    /// All together.
    #[error("Protocol error: too big request: at most {0} bytes")]
    Request(usize),
    /// No bulk string, where only such may stand.
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    Expected(u8),
    /// A line of a length that does not end with CR and LF.
    #[error("Protocol error: a length without an end")]
    End,
}

/// What stands at the beginning of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// Not a whole request; `needed`: the bytes that there will be at least.
    Part {
        /// As far as it is known.
        needed: usize,
    },
    /// An array of this many bytes.
    Array(usize),
    /// A line of this many bytes, its end among them.
    Line(usize),
}

/// Of a number and its sign, the mark in front and the end behind it.
const LENGTH_LINE_MAX: usize = 32;

/// How far a request has been looked at, so that nothing is looked at twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    at: usize,
    left: Option<usize>,
}

impl Scanner {
    /// Looks at everything that has come of a request. After a whole one a new scanner is due.
    ///
    /// # Errors
    /// Nothing can be made of it, or it is beyond the limits.
    pub fn scan(&mut self, input: &[u8], limits: &Limits) -> Result<Framed, Broken> {
        match input.first() {
            None => Ok(Framed::Part { needed: 1 }),
            Some(b'*') => self.scan_array(input, limits),
            Some(_) => self.scan_line(input, limits),
        }
    }

    fn scan_line(&mut self, input: &[u8], limits: &Limits) -> Result<Framed, Broken> {
        let unseen = input.get(self.at..).unwrap_or_default();
        let end = unseen.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(input.len(), |end| self.at + end + 1);
        if length > limits.inline_bytes {
            return Err(Broken::Inline(limits.inline_bytes));
        }
        self.at = input.len();
        Ok(match end {
            Some(_) => Framed::Line(length),
            None => Framed::Part {
                needed: input.len() + 1,
            },
        })
    }

    fn scan_array(&mut self, input: &[u8], limits: &Limits) -> Result<Framed, Broken> {
        let left = match self.left {
            Some(left) => left,
            None => {
                let broken = Broken::Arguments(limits.arguments);
                let Some((count, end)) = length_line(input, 0, &broken)? else {
                    return Ok(part(input));
                };
                // Redis takes an array of less than nothing for an empty one.
                let count = usize::try_from(count).unwrap_or(0);
                if count > limits.arguments {
                    return Err(broken);
                }
                self.at = end;
                count
            }
        };
        self.scan_arguments(input, left, limits)
    }

    fn scan_arguments(
        &mut self,
        input: &[u8],
        mut left: usize,
        limits: &Limits,
    ) -> Result<Framed, Broken> {
        while left > 0 {
            self.left = Some(left);
            match input.get(self.at) {
                None => return Ok(part(input)),
                Some(b'$') => {}
                Some(other) => return Err(Broken::Expected(*other)),
            }
            let broken = Broken::Bulk(limits.bulk_bytes);
            let Some((length, begin)) = length_line(input, self.at, &broken)? else {
                return Ok(part(input));
            };
            let length = usize::try_from(length).map_err(|_| broken.clone())?;
            if length > limits.bulk_bytes {
                return Err(broken);
            }
            let end = begin + length;
            if end + 2 > limits.request_bytes {
                return Err(Broken::Request(limits.request_bytes));
            }
            match input.get(end..end + 2) {
                None => return Ok(Framed::Part { needed: end + 2 }),
                Some(b"\r\n") => {}
                Some(_) => return Err(Broken::End),
            }
            self.at = end + 2;
            left -= 1;
        }
        Ok(Framed::Array(self.at))
    }
}

fn part(input: &[u8]) -> Framed {
    Framed::Part {
        needed: input.len() + 1,
    }
}

/// The number in the line that begins with a mark at `at`, and where the next begins.
fn length_line(input: &[u8], at: usize, broken: &Broken) -> Result<Option<(i64, usize)>, Broken> {
    let line = input.get(at + 1..).unwrap_or_default();
    let line = line.get(..LENGTH_LINE_MAX).unwrap_or(line);
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return match line.len() < LENGTH_LINE_MAX {
            true => Ok(None),
            false => Err(broken.clone()),
        };
    };
    let digits = line.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let digits = std::str::from_utf8(digits.ok_or(Broken::End)?).ok();
    let number = digits.and_then(|digits| digits.parse().ok());
    let number = number.ok_or_else(|| broken.clone())?;
    Ok(Some((number, at + 1 + end + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        arguments: 4,
        bulk_bytes: 8,
        request_bytes: 40,
        inline_bytes: 10,
    };

    fn scan(input: &[u8]) -> Result<Framed, Broken> {
        Scanner::default().scan(input, &LIMITS)
    }

    #[test]
    fn a_request_ends_where_it_says() {
        let request = b"*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\n";
        let mut scanner = Scanner::default();
        for end in 0..request.len() {
            let framed = scanner.scan(&request[..end], &LIMITS).unwrap();
            let Framed::Part { needed } = framed else {
                panic!("{framed:?} after {end} bytes");
            };
            assert!((end + 1..=request.len()).contains(&needed), "{needed}");
        }
        let whole = Ok(Framed::Array(request.len()));
        assert_eq!(scanner.scan(request, &LIMITS), whole);
        let two = [&request[..], b"PING\r\n"].concat();
        assert_eq!(scan(&two), whole);
        assert_eq!(scan(b"PING\r\nPING\r\n"), Ok(Framed::Line(6)));
        for nothing in [&b"*0\r\n"[..], b"*-1\r\n"] {
            assert_eq!(scan(nothing), Ok(Framed::Array(nothing.len())));
        }
    }

    #[test]
    fn what_is_declared_is_believed_within_the_limits_alone() {
        for (input, broken) in [
            (&b"*5\r\n"[..], Broken::Arguments(4)),
            (b"*9223372036854775807\r\n", Broken::Arguments(4)),
            (b"*99999999999999999999\r\n", Broken::Arguments(4)),
            (b"*x\r\n", Broken::Arguments(4)),
            (&[b'*'; 40], Broken::Arguments(4)),
            (b"*1\r\n$9\r\n", Broken::Bulk(8)),
            (b"*1\r\n$-1\r\n", Broken::Bulk(8)),
            (b"*1\r\n$1\r\nabc", Broken::End),
            (b"*1\n", Broken::End),
            (b"*1\r\n*1\r\n", Broken::Expected(b'*')),
            (b"*1\r\n:1\r\n", Broken::Expected(b':')),
            (b"0123456789\n", Broken::Inline(10)),
            (b"01234567890", Broken::Inline(10)),
        ] {
            let found = scan(input);
            assert_eq!(found, Err(broken), "{}", input.escape_ascii());
        }
        assert_eq!(scan(b"0123456789"), Ok(Framed::Part { needed: 11 }));
        let long = b"*4\r\n$8\r\n12345678\r\n$8\r\n12345678\r\n$8\r\n";
        assert_eq!(scan(long), Err(Broken::Request(40)));
    }
}
