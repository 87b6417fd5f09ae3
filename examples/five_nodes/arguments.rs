//! The command line.

use std::path::PathBuf;
use std::time::Duration;

pub const USAGE: &str = "\
Five nodes of one raft group, stopped and reopened while they take puts.

  --puts N      how many pairs to put (1000)
  --restarts N  how many restarts at least (16)
  --seed N      which nodes are stopped when (random, and printed); elections keep their own
                randomness, so the same seed does not repeat a run exactly
  --dir PATH    where to make the nodes' directories (a new one under target/demo)
  --keep        leave the nodes' directories there
  --seconds N   give up after so long (120)";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    pub puts: usize,
    pub restarts: u64,
    pub seed: u64,
    pub dir: Option<PathBuf>,
    pub keep: bool,
    pub time_max: Duration,
}

impl Default for Arguments {
    fn default() -> Self {
        Arguments {
            puts: 1000,
            restarts: 16,
            seed: fastrand::u64(..),
            dir: None,
            keep: false,
            time_max: Duration::from_secs(120),
        }
    }
}

impl Arguments {
    /// Says in an error what cannot be used.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Arguments::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |value: String| {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{word} needs a number, not {value:?}"))
            };
            match word.as_str() {
                "--puts" => arguments.puts = number(value()?)? as usize,
                "--restarts" => arguments.restarts = number(value()?)?,
                "--seed" => arguments.seed = number(value()?)?,
                "--dir" => arguments.dir = Some(value()?.into()),
                "--keep" => arguments.keep = true,
                "--seconds" => arguments.time_max = Duration::from_secs(number(value()?)?),
                _ => return Err(format!("{word} is not an option")),
            }
        }
        if arguments.puts < 100 {
            return Err("--puts needs at least 100: fewer leave nobody behind the log".to_owned());
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(words.iter().map(|word| word.to_string()))
    }

    #[test]
    fn options_are_read() {
        let words = ["--puts", "200", "--keep", "--seed", "7", "--dir", "here"];
        let read = parse(&words).unwrap();
        let expected = Arguments {
            puts: 200,
            keep: true,
            seed: 7,
            ..Arguments::default()
        };
        assert_eq!(
            read,
            Arguments {
                dir: Some("here".into()),
                ..expected
            }
        );
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (words, refusal) in [
            (vec!["--put", "200"], "--put is not an option"),
            (vec!["--puts"], "--puts needs a value"),
            (vec!["--seed", "x"], "--seed needs a number"),
            (vec!["--puts", "3"], "at least 100"),
        ] {
            let refused = parse(&words).unwrap_err();
            assert!(refused.contains(refusal), "{words:?}: {refused}");
        }
    }
}
