//! Patterns of numbers and extensions.

/// Whether `text` is as `pattern` says: Asterisk's own patterns begin with `_` (`X`, `Z`, `N`, `[2-5]`, `.`, `!`); in others `*` is any
/// characters and `?` is one.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_prefix('_') {
        Some(pattern) => asterisk(pattern.as_bytes(), text.as_bytes()),
        None => glob(pattern.as_bytes(), text.as_bytes()),
    }
}

fn asterisk(mut pattern: &[u8], mut text: &[u8]) -> bool {
    loop {
        let Some((&first, rest)) = pattern.split_first() else { return text.is_empty() };
        let mut rest = rest;
        let fits: bool = match first {
            b'.' => return !text.is_empty(),
            b'!' => return true,
            // of no meaning in a number
            b'-' | b' ' => {
                pattern = rest;
                continue;
            }
            b'[' => {
                let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
                let set = &rest[..end];
                rest = &rest[end + 1..];
                text.first().is_some_and(|byte| {
                    let range = |window: &[u8]| window[1] == b'-' && (window[0]..=window[2]).contains(byte);
                    set.contains(byte) || set.windows(3).any(range)
                })
            }
            b'X' | b'x' => text.first().is_some_and(u8::is_ascii_digit),
            b'Z' | b'z' => text.first().is_some_and(|byte| (b'1'..=b'9').contains(byte)),
            b'N' | b'n' => text.first().is_some_and(|byte| (b'2'..=b'9').contains(byte)),
            other => text.first() == Some(&other),
        };
        if !fits {
            return false;
        }
        (pattern, text) = (rest, &text[1..]);
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // where to go on when the last `*` has to take one more
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after, from)) => {
                    (p, t) = (after, from + 1);
                    retry = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
