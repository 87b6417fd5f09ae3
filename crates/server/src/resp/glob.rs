//! Patterns of keys, as Redis has them; pure.

/// Whether a key matches: `*`, `?`, `[abc]`, `[^a-c]`, and `\` before what stands for itself.
/// Takes time of the product of both lengths at the most.
pub fn matches(pattern: &[u8], key: &[u8]) -> bool {
    let (mut pattern, mut key) = (pattern, key);
    // Where to go on when the rest does not match: behind the last star, one byte further.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            again = Some((rest, key));
            pattern = rest;
            continue;
        }
        let matched = match (pattern, key) {
            ([], []) => return true,
            ([], _) | (_, []) => None,
            (_, [byte, key_rest @ ..]) => one(pattern, *byte).map(|rest| (rest, key_rest)),
        };
        (pattern, key) = match (matched, again) {
            (Some(matched), _) => matched,
            (None, Some((behind, [_, key_rest @ ..]))) => {
                again = Some((behind, key_rest));
                (behind, key_rest)
            }
            (None, _) => return false,
        };
    }
}

/// What stands behind the first element of the pattern, when it matches this byte.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', escaped, rest @ ..] => (*escaped == byte).then_some(rest),
        [plain, rest @ ..] => (*plain == byte).then_some(rest),
    }
}

/// A class that is not closed ends with the pattern.
fn class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_negated, mut pattern) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut is_in = false;
    loop {
        pattern = match pattern {
            [] => break,
            [b']', rest @ ..] => {
                pattern = rest;
                break;
            }
            [b'\\', escaped, rest @ ..] => {
                is_in |= *escaped == byte;
                rest
            }
            [low, b'-', high, rest @ ..] => {
                let (low, high) = (low.min(high), low.max(high));
                is_in |= (low..=high).contains(&&byte);
                rest
            }
            [plain, rest @ ..] => {
                is_in |= *plain == byte;
                rest
            }
        }
    }
    (is_in != is_negated).then_some(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_redis_says() {
        for (pattern, key, expected) in [
            ("*", "", true),
            ("*", "abc", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h*llo", "heeeell", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[\\]]", "]", true),
            ("a[b", "ab", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a__b__b__c", true),
            ("a*b*c", "a__c__b", false),
        ] {
            let found = matches(pattern.as_bytes(), key.as_bytes());
            assert_eq!(found, expected, "{pattern} {key}");
        }
    }

    /// Stars that go back one by one would take longer than the universe has.
    #[test]
    fn many_stars_take_little_time() {
        let pattern = "a*".repeat(2_000) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(4_000).as_bytes()));
    }
}
