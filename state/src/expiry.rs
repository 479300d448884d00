//! Until when a certificate is good. rustls checks it and does not tell, so its one field is looked up here: X.509, RFC 5280,
//! section 4.1, in DER.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version, which is left out in those of version 1.
const VERSION: u8 = 0xa0;

/// Of all certificates in a PEM file, in seconds since 1970; what cannot be read is left out.
pub(crate) fn of_file(path: &Path) -> Vec<u64> {
    let all = CertificateDer::pem_file_iter(path).into_iter().flatten();
    all.filter_map(|certificate| not_after(&certificate.ok()?)).collect()
}

fn not_after(certificate: &[u8]) -> Option<u64> {
    let (certificate, _) = take(certificate, SEQUENCE)?;
    let (fields, _) = take(certificate, SEQUENCE)?;
    let fields = take(fields, VERSION).map_or(fields, |(_, rest)| rest);
    let (_serial, fields) = take(fields, INTEGER)?;
    let (_algorithm, fields) = take(fields, SEQUENCE)?;
    let (_issuer, fields) = take(fields, SEQUENCE)?;
    let (validity, _) = take(fields, SEQUENCE)?;
    let (_, rest) = time(validity)?;
    time(rest).map(|(time, _)| time)
}

/// What an element of this kind holds, and what is behind it.
fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = bytes.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // The number of bytes that have the length.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ`, until 2049, or `YYYYMMDDHHMMSSZ`.
fn time(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (text, rest, has_century) = match take(bytes, UTC_TIME) {
        Some((text, rest)) => (text, rest, false),
        None => take(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, rest, true))?,
    };
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, others) = text.split_at_checked(if has_century { 4 } else { 2 })?;
    let year: u64 = year.parse().ok()?;
    let year = match (has_century, year) {
        (true, year) => year,
        (false, year @ 50..) => 1900 + year,
        (false, year) => 2000 + year,
    };
    let part = |at: usize| others.get(at..at + 2)?.parse::<u64>().ok();
    let [month, day, hour, minute, second] = [part(0)?, part(2)?, part(4)?, part(6)?, part(8)?];
    let days = days(year, month, day)?;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second, rest))
}

/// Days since 1970 in the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let before = before.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    let in_year = before + u64::from(month > 2 && is_leap(year)) + day.checked_sub(1)?;
    let years = year.checked_sub(1970)?;
    Some(years * 365 + leap_days(year - 1) - leap_days(1969) + in_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_time_is_read_and_nothing_else() {
        let read = |tag: u8, text: &str| {
            let bytes = [&[tag, text.len() as u8], text.as_bytes()].concat();
            time(&bytes).map(|(time, _)| time)
        };
        for (tag, text, seconds) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "000229120000Z", Some(951_825_600)),
            (UTC_TIME, "260101000001Z", Some(1_767_225_601)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "21000301000000Z", Some(4_107_542_400)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "600101000000Z", None),
            (UTC_TIME, "26130100000Z", None),
            (UTC_TIME, "261301000000Z", None),
            (UTC_TIME, "260100000000Z", None),
            (UTC_TIME, "260101000000", None),
            (UTC_TIME, "äääZ", None),
            (INTEGER, "260101000000Z", None),
        ] {
            assert_eq!(read(tag, text), seconds, "{text}");
        }
    }

    #[test]
    fn whatever_is_no_certificate_has_no_end() {
        use rcgen::{CertificateParams, KeyPair, date_time_ymd};
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2031, 2, 3);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der = certificate.der();
        assert_eq!(not_after(der), Some(1_927_843_200));

        for end in 0..der.len() {
            assert_eq!(not_after(&der[..end]), None, "{end}");
        }
        for at in 0..der.len().min(200) {
            let mut other = der.to_vec();
            other[at] ^= 0xff;
            let _ = not_after(&other);
        }
    }
}
