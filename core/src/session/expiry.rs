//! When a cookie expires: the dates that clients understand (RFC 6265, section 5.1.1).

use crate::time::Millis;

const MONTHS: [&[u8]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];

/// The time of a date in any of the forms that servers write, such as `Thu, 01-Jan-1970 00:00:10 GMT`; times before 1970
/// are 0. `None` if a client would ignore it.
pub(super) fn parse(date: &[u8]) -> Option<Millis> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for token in date.split(is_delimiter).filter(|token| !token.is_empty()) {
        if let Some(found) = clock(token).filter(|_| time.is_none()) {
            time = Some(found);
        } else if let Some(found) = number(token, 1..=2).filter(|_| day.is_none()) {
            day = Some(found);
        } else if let Some(found) = month_of(token).filter(|_| month.is_none()) {
            month = Some(found);
        } else if let Some(found) = number(token, 2..=4).filter(|_| year.is_none()) {
            year = Some(found);
        }
    }
    let (day, month, seconds) = (day?, month?, time?);
    let year = match year? {
        short @ 0..=69 => 2000 + short,
        short @ 70..=99 => 1900 + short,
        year => year,
    };
    if !(1..=31).contains(&day) || year < 1601 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + seconds;
    Some(Millis(u64::try_from(seconds).unwrap_or(0) * 1000))
}

fn is_delimiter(byte: &u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'/' | b';'..=b'@' | b'['..=b'`' | b'{'..=b'~')
}

/// The number that a token begins with, if it has so many digits.
fn number(token: &[u8], digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let count = token.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = || token.iter().take(count).fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    digits.contains(&count).then(value)
}

/// The seconds of a day in `hh:mm:ss`.
fn clock(token: &[u8]) -> Option<i64> {
    let mut fields = token.splitn(3, |byte| *byte == b':');
    let mut next = |below: i64| number(fields.next()?, 1..=2).filter(|value| *value < below);
    Some((next(24)? * 60 + next(60)?) * 60 + next(60)?)
}

fn month_of(token: &[u8]) -> Option<i64> {
    let name = token.get(..3)?;
    let index = MONTHS.iter().position(|month| name.eq_ignore_ascii_case(month))?;
    i64::try_from(index + 1).ok()
}

/// The proleptic Gregorian calendar, by counting years from March (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(date: &str) -> Option<u64> {
        parse(date.as_bytes()).map(|time| time.0 / 1000)
    }

    #[test]
    fn the_forms_that_servers_write_are_read() {
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "6 november 1994 8:49:37",
        ] {
            assert_eq!(seconds(date), Some(784_111_777), "{date}");
        }
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(seconds("Fri, 31 Dec 9999 23:59:59 GMT"), Some(253_402_300_799));
        assert_eq!(seconds("Fri, 13 Dec 1901 20:45:52 GMT"), Some(0));
    }

    #[test]
    fn what_is_no_date_is_ignored() {
        for date in [
            "",
            "never",
            "0",
            "Thu, 01 Jan 1970",
            "01 Jan 1970 24:00:00",
            "32 Jan 1970 00:00:00",
            "123456789012345678901234567890",
            "1 Jan 1600 0:0:0",
        ] {
            assert_eq!(seconds(date), None, "{date}");
        }
    }
}
