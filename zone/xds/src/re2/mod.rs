//! Checks regular expressions against RE2's syntax, which is what Envoy compiles them with.
//!
//! One expression that Envoy cannot compile makes it refuse a whole route configuration, so the
//! entry that holds it is left out instead. Rust's own engines do not serve here: they refuse
//! things that RE2 takes (`/items/{id}`, `\Q..\E`) and take things that it refuses (`a**`).

mod classes;

use std::collections::HashSet;

use self::classes::{CATEGORIES, POSIX_CLASSES, SCRIPTS};

/// RE2's limit of repetition counts, nested ones multiplied.
const MAX_REPEAT: u32 = 1000;

/// Instructions that fit into RE2's default memory budget. Sizes here are lower bounds, so nothing
/// is refused for size that RE2 would compile.
const MAX_INSTRUCTIONS: u64 = 87_381;

/// Why RE2 would refuse an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Re2Error {
    #[error("trailing backslash")]
    TrailingBackslash,
    #[error("invalid escape sequence")]
    BadEscape,
    #[error("missing ]")]
    MissingBracket,
    #[error("missing )")]
    MissingParen,
    #[error("unexpected )")]
    UnexpectedParen,
    #[error("invalid character class")]
    BadClass,
    #[error("invalid character range")]
    BadRange,
    #[error("nothing to repeat")]
    NothingToRepeat,
    #[error("repetition of a repetition")]
    RepeatedRepetition,
    #[error("repetition count too large")]
    RepeatTooLarge,
    #[error("invalid group name")]
    BadGroupName,
    #[error("invalid group syntax")]
    BadGroup,
    #[error("expression too large")]
    TooLarge,
}

type Result<T> = std::result::Result<T, Re2Error>;

/// What one part of an expression costs.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    /// At least so many instructions.
    size: u64,
    /// Largest product of nested repetition counts, 0 meaning none.
    repeats: u32,
}

/// An open group, or the whole expression.
#[derive(Debug, Default)]
struct Frame {
    /// All parts but the last one.
    total: Cost,
    /// The last part, which a repetition would take; none after `(` and `|`.
    last: Option<Cost>,
}

impl Frame {
    fn push(&mut self, part: Cost) {
        self.settle();
        self.last = Some(part);
    }

    fn settle(&mut self) {
        if let Some(last) = self.last.take() {
            self.total.size = self.total.size.saturating_add(last.size);
            self.total.repeats = self.total.repeats.max(last.repeats);
        }
    }
}

/// Checks an expression.
pub(crate) fn check(pattern: &str) -> Result<()> {
    let mut parser =
        Parser { rest: pattern, frames: vec![Frame::default()], names: HashSet::new() };
    parser.run()
}

struct Parser<'a> {
    rest: &'a str,
    frames: Vec<Frame>,
    names: HashSet<&'a str>,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take(&mut self, prefix: &str) -> bool {
        if let Some(rest) = self.rest.strip_prefix(prefix) {
            self.rest = rest;
            true
        } else {
            false
        }
    }

    fn frame(&mut self) -> &mut Frame {
        if self.frames.is_empty() {
            self.frames.push(Frame::default());
        }
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    fn part(&mut self, size: u64) {
        self.frame().push(Cost { size, repeats: 0 });
    }

    fn run(&mut self) -> Result<()> {
        let mut after_repetition = false;
        while let Some(c) = self.next() {
            let mut repetition = false;
            match c {
                '(' => self.open()?,
                ')' => self.close()?,
                '|' => self.frame().settle(),
                '[' => self.class()?,
                '.' | '^' | '$' => self.part(1),
                '*' | '+' | '?' => {
                    self.repeat(after_repetition, 0)?;
                    self.take("?");
                    repetition = true;
                }
                '{' => match self.counts() {
                    None => self.part(1),
                    Some((low, high)) => {
                        if low > MAX_REPEAT
                            || high.is_some_and(|high| high > MAX_REPEAT || high < low)
                        {
                            return Err(Re2Error::RepeatTooLarge);
                        }
                        self.repeat(after_repetition, high.unwrap_or(low))?;
                        self.take("?");
                        repetition = true;
                    }
                },
                '\\' => self.escape_outside()?,
                c => self.part(c.len_utf8() as u64),
            }
            after_repetition = repetition;
        }
        if self.frames.len() != 1 {
            return Err(Re2Error::MissingParen);
        }
        let frame = self.frame();
        frame.settle();
        if frame.total.size > MAX_INSTRUCTIONS {
            return Err(Re2Error::TooLarge);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        if let Some(rest) = self.rest.strip_prefix('?') {
            let named = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<'));
            if let Some(rest) = named {
                let (name, rest) = rest.split_once('>').ok_or(Re2Error::BadGroupName)?;
                let valid = name.chars().all(|c| c.is_alphanumeric() || c == '_');
                if name.is_empty() || !valid || !self.names.insert(name) {
                    return Err(Re2Error::BadGroupName);
                }
                self.rest = rest;
            } else {
                self.rest = rest;
                if !self.flags()? {
                    return Ok(());
                }
            }
        }
        self.frames.push(Frame::default());
        Ok(())
    }

    /// Reads `flags:` or `flags)`; says whether a group was opened.
    fn flags(&mut self) -> Result<bool> {
        let (mut negated, mut any) = (false, false);
        loop {
            match self.next() {
                None => return Err(Re2Error::MissingParen),
                Some('i' | 'm' | 's' | 'U') => any = true,
                Some('-') if !negated => (negated, any) = (true, false),
                Some(end @ (':' | ')')) => {
                    if negated && !any {
                        return Err(Re2Error::BadGroup);
                    }
                    return Ok(end == ':');
                }
                Some(_) => return Err(Re2Error::BadGroup),
            }
        }
    }

    fn close(&mut self) -> Result<()> {
        if self.frames.len() < 2 {
            return Err(Re2Error::UnexpectedParen);
        }
        if let Some(mut group) = self.frames.pop() {
            group.settle();
            self.frame().push(group.total);
        }
        Ok(())
    }

    fn repeat(&mut self, after_repetition: bool, count: u32) -> Result<()> {
        if after_repetition {
            return Err(Re2Error::RepeatedRepetition);
        }
        let last = self.frame().last.as_mut().ok_or(Re2Error::NothingToRepeat)?;
        if count > 1 {
            last.repeats = last.repeats.max(1).saturating_mul(count);
            if last.repeats > MAX_REPEAT {
                return Err(Re2Error::RepeatTooLarge);
            }
            last.size = last.size.saturating_mul(u64::from(count));
        }
        Ok(())
    }

    /// Reads the rest of `{n}`, `{n,}` or `{n,m}`; anything else is literal text.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        fn number(text: &str) -> Option<(u32, &str)> {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = text.split_at(digits);
            if digits == 0 || (digits > 1 && number.starts_with('0')) {
                return None;
            }
            Some((number.parse().unwrap_or(u32::MAX), rest))
        }
        let (low, rest) = number(self.rest)?;
        let (high, rest) = match rest.strip_prefix(',') {
            None => (Some(low), rest),
            Some(rest) if rest.starts_with('}') => (None, rest),
            Some(rest) => {
                let (high, rest) = number(rest)?;
                (Some(high), rest)
            }
        };
        self.rest = rest.strip_prefix('}')?;
        Some((low, high))
    }

    fn escape_outside(&mut self) -> Result<()> {
        if self.take("Q") {
            let (text, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
            self.rest = rest;
            for c in text.chars() {
                self.part(c.len_utf8() as u64);
            }
            return Ok(());
        }
        // A lone \E ends nothing and means nothing.
        if self.take("E") {
            return Ok(());
        }
        if ["b", "B", "A", "z", "C"].iter().any(|p| self.take(p)) || self.perl_class() {
            self.part(1);
            return Ok(());
        }
        if self.unicode_class()? {
            self.part(1);
            return Ok(());
        }
        let c = self.escape()?;
        self.part(c.len_utf8() as u64);
        Ok(())
    }

    fn perl_class(&mut self) -> bool {
        ["d", "D", "s", "S", "w", "W"].iter().any(|p| self.take(p))
    }

    /// After a backslash: `pL`, `p{Greek}`, `P{^Greek}`.
    fn unicode_class(&mut self) -> Result<bool> {
        if !self.take("p") && !self.take("P") {
            return Ok(false);
        }
        let name = if self.take("{") {
            let (name, rest) = self.rest.split_once('}').ok_or(Re2Error::BadClass)?;
            self.rest = rest;
            name.strip_prefix('^').unwrap_or(name)
        } else {
            let text = self.rest;
            let c = self.next().ok_or(Re2Error::BadClass)?;
            &text[..c.len_utf8()]
        };
        if CATEGORIES.contains(&name) || SCRIPTS.binary_search(&name).is_ok() {
            Ok(true)
        } else {
            Err(Re2Error::BadClass)
        }
    }

    /// After a backslash: an escaped character.
    fn escape(&mut self) -> Result<char> {
        let c = self.next().ok_or(Re2Error::TrailingBackslash)?;
        match c {
            '0'..='7' => {
                let octal = |c: &char| ('0'..='7').contains(c);
                // A single digit other than 0 would be a back reference.
                if c != '0' && !self.rest.chars().next().is_some_and(|c| octal(&c)) {
                    return Err(Re2Error::BadEscape);
                }
                let more = self.rest.chars().take(2).take_while(octal).count();
                let code = u32::from_str_radix(&self.rest[..more], 8).unwrap_or(0);
                let first = c.to_digit(8).unwrap_or(0);
                self.rest = &self.rest[more..];
                let shift = if more == 2 {
                    64
                } else if more == 1 {
                    8
                } else {
                    1
                };
                char::from_u32(first * shift + code).ok_or(Re2Error::BadEscape)
            }
            'x' => {
                let digits = if self.take("{") {
                    let (digits, rest) = self.rest.split_once('}').ok_or(Re2Error::BadEscape)?;
                    self.rest = rest;
                    digits
                } else {
                    let digits = self.rest.get(..2).ok_or(Re2Error::BadEscape)?;
                    self.rest = &self.rest[2..];
                    digits
                };
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(Re2Error::BadEscape);
                }
                let code = u32::from_str_radix(digits, 16).map_err(|_| Re2Error::BadEscape)?;
                // Surrogates are numbers like others to RE2; they match nothing.
                match char::from_u32(code) {
                    Some(c) => Ok(c),
                    None if code <= 0x0010_FFFF => Ok(char::REPLACEMENT_CHARACTER),
                    None => Err(Re2Error::BadEscape),
                }
            }
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'a' => Ok('\u{7}'),
            'f' => Ok('\u{c}'),
            'v' => Ok('\u{b}'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(c),
            _ => Err(Re2Error::BadEscape),
        }
    }

    fn class(&mut self) -> Result<()> {
        self.take("^");
        let mut first = true;
        loop {
            if self.rest.is_empty() {
                return Err(Re2Error::MissingBracket);
            }
            if self.rest.starts_with(']') && !first {
                break;
            }
            first = false;
            if let Some(rest) = self.rest.strip_prefix("[:")
                && let Some((name, rest)) = rest.split_once(":]")
            {
                if !POSIX_CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
                    return Err(Re2Error::BadClass);
                }
                self.rest = rest;
                continue;
            }
            if let Some(rest) = self.rest.strip_prefix('\\') {
                let before = self.rest;
                self.rest = rest;
                if self.perl_class() || self.unicode_class()? {
                    continue;
                }
                self.rest = before;
            }
            let low = self.class_character()?;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
                self.take("-");
                if self.class_character()? < low {
                    return Err(Re2Error::BadRange);
                }
            }
        }
        self.take("]");
        self.part(1);
        Ok(())
    }

    fn class_character(&mut self) -> Result<char> {
        match self.next() {
            None => Err(Re2Error::MissingBracket),
            Some('\\') => self.escape(),
            Some(c) => Ok(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Re2Error, check};

    #[test]
    fn accepted() {
        for pattern in [
            "",
            "/api/.*",
            "/items/{id}",
            "a{,5}",
            "a{2}",
            "a{2,}",
            "a{2,3}?",
            "a{1000}",
            "x{01}",
            "(a|b)*?",
            "(?i)abc",
            "(?i:abc)",
            "(?P<n>x)",
            "(?<n>x)",
            "(?-s:.)",
            "^$",
            "^*",
            "|",
            "(|a)",
            "[]a]",
            "[^]]",
            "[a-]",
            "[-a]",
            "[a[b]",
            "[[:alpha:]_]",
            "[[:^alpha:]]",
            "[\\d\\-x]",
            "\\pL",
            "\\p{Greek}",
            "\\P{^Lu}",
            "[\\p{Nd}]",
            "\\Q(*\\E",
            "\\Qabc",
            "\\x{10FFFF}",
            "\\x41",
            "\\012",
            "\\12",
            "\\_",
            "\\/",
            "\\<",
            "\\C",
            "\\bword\\b",
            "a**".trim_end_matches('*'),
            "é+",
            "[à-ü]",
            "(a{10}){100}",
            "[[:]",
            "\\E",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn refused() {
        for (pattern, why) in [
            ("\\", Re2Error::TrailingBackslash),
            ("\\q", Re2Error::BadEscape),
            ("\\1", Re2Error::BadEscape),
            ("\\8", Re2Error::BadEscape),
            ("\\Z", Re2Error::BadEscape),
            ("\\x4", Re2Error::BadEscape),
            ("\\x{110000}", Re2Error::BadEscape),
            ("\\é", Re2Error::BadEscape),
            ("[a", Re2Error::MissingBracket),
            ("[]", Re2Error::MissingBracket),
            ("[z-a]", Re2Error::BadRange),
            ("[a-\\d]", Re2Error::BadEscape),
            ("[[:nope:]]", Re2Error::BadClass),
            ("\\p{Nope}", Re2Error::BadClass),
            ("(a", Re2Error::MissingParen),
            ("a)", Re2Error::UnexpectedParen),
            ("*a", Re2Error::NothingToRepeat),
            ("(*)", Re2Error::NothingToRepeat),
            ("a|*", Re2Error::NothingToRepeat),
            ("{2}", Re2Error::NothingToRepeat),
            ("a**", Re2Error::RepeatedRepetition),
            ("a*{2}", Re2Error::RepeatedRepetition),
            ("a{1001}", Re2Error::RepeatTooLarge),
            ("a{3,2}", Re2Error::RepeatTooLarge),
            ("(a{100}){100}", Re2Error::RepeatTooLarge),
            ("(?=a)", Re2Error::BadGroup),
            ("(?!a)", Re2Error::BadGroup),
            ("(?<=a)", Re2Error::BadGroupName),
            ("(?P<a>x)(?P<a>y)", Re2Error::BadGroupName),
            ("(?i", Re2Error::MissingParen),
            ("(?-)", Re2Error::BadGroup),
        ] {
            assert_eq!(check(pattern), Err(why), "{pattern}");
        }
        assert_eq!(check(&format!("({}){{1000}}", "a".repeat(100))), Err(Re2Error::TooLarge));
    }
}
