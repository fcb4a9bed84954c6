//! Personal data in a text: where it stands, and the text without it.
//!
//! Mail addresses, telephone numbers, payment cards, bank accounts, internet addresses. Rules, not
//! a model: names and street addresses are not found. Sources: Luhn's check digit (ISO/IEC 7812-1
//! annex B), IBAN's remainder of 97 and its registry's lengths (ISO 13616), E.164 for numbers with a
//! plus sign or 00, the North American plan's 3-3-4 digits, RFC 5322 and 6531 for mail.
//!
//! It lies here because two rooms need it: `filter` counts, `shard` masks what is written out.

mod gap;
mod iban;
mod ip;
mod mail;
mod numbers;

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of personal data.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PiiKind {
    /// A mail address.
    Email,
    /// A telephone number: with a plus sign or 00 and 8 to 15 digits, as 3-3-4 digits with
    /// separators, or with a leading 0, separators and 9 to 11 digits.
    Phone,
    /// 13 to 19 digits of a payment card with Luhn's check digit.
    Card,
    /// An international bank account number with its check digits.
    Iban,
    /// An IPv4 or IPv6 address.
    Ip,
}

use PiiKind::{Card, Email, Iban, Ip, Phone};

impl PiiKind {
    /// All kinds, in the order of the counts.
    pub const ALL: [Self; 5] = [Email, Phone, Card, Iban, Ip];

    /// As a recipe writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Email => "email",
            Phone => "phone",
            Card => "card",
            Iban => "iban",
            Ip => "ip",
        }
    }

    /// What stands in its place in a masked text.
    #[must_use]
    pub fn token(self) -> &'static str {
        match self {
            Email => "[EMAIL]",
            Phone => "[PHONE]",
            Card => "[CARD]",
            Iban => "[IBAN]",
            Ip => "[IP]",
        }
    }
}

/// Where personal data stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: PiiKind,
    /// Its bytes in the text.
    pub range: Range<usize>,
}

/// All that is found, kind by kind in the order of [`PiiKind::ALL`]; ranges of different findings
/// may overlap.
#[must_use]
pub fn find(text: &str) -> Vec<Finding> {
    let accounts = iban::find(text);
    let of = |kind| move |range| Finding { kind, range };
    let mut found: Vec<Finding> = mail::find(text).map(of(Email)).collect();
    // The digits of an account are no telephone number.
    let numbers = numbers::find(text, &accounts);
    for wanted in [Phone, Card] {
        found.extend(numbers.iter().filter(|finding| finding.kind == wanted).cloned());
    }
    found.extend(accounts.into_iter().map(of(Iban)));
    found.extend(ip::find(text).into_iter().map(of(Ip)));
    found
}

/// How many there are of each kind of [`PiiKind::ALL`].
#[must_use]
pub fn count(text: &str) -> [u32; 5] {
    let mut counts = [0_u32; 5];
    for finding in find(text) {
        let count = &mut counts[finding.kind as usize];
        *count = count.saturating_add(1);
    }
    counts
}

/// What of these kinds is to be masked: in order, and without overlaps.
///
/// What overlaps becomes one finding, of the kind that begins first, of two that begin together the
/// earlier in [`PiiKind::ALL`].
#[must_use]
pub fn find_apart(text: &str, kinds: &[PiiKind]) -> Vec<Finding> {
    let mut found = find(text);
    found.retain(|finding| kinds.contains(&finding.kind));
    found.sort_by_key(|finding| (finding.range.start, finding.kind));
    let mut apart: Vec<Finding> = Vec::with_capacity(found.len());
    for finding in found {
        match apart.last_mut() {
            Some(last) if finding.range.start < last.range.end => {
                last.range.end = last.range.end.max(finding.range.end);
            }
            _ => apart.push(finding),
        }
    }
    apart
}

/// The text with [`PiiKind::token`] in the place of all of [`find_apart`].
#[must_use]
pub fn mask(text: &str, kinds: &[PiiKind]) -> String {
    let (mut masked, mut after) = (String::with_capacity(text.len()), 0);
    for Finding { kind, range } in find_apart(text, kinds) {
        masked.push_str(&text[after..range.start]);
        masked.push_str(kind.token());
        after = range.end;
    }
    masked.push_str(&text[after..]);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_no_telephones() {
        for caption in [
            "summer 2010-2011-2012",
            "size 1920 x 1080, 24.5 MP",
            "born 1999-12-31 at 10.30",
            "ISBN 978-3-16-148410-0",
            "part 0042",
            "order a1234567890123456",
            "img.host/555-123-4567",
        ] {
            assert_eq!(count(caption), [0; 5], "{caption}");
        }
        for caption in ["+49 30 901820", "+1 (555) 123-4567", "1-555-123-4567", "030 12 34 56 78"] {
            assert_eq!(count(caption), [0, 1, 0, 0, 0], "{caption}");
        }
    }

    #[test]
    fn a_number_beside_another_is_found() {
        for (caption, phones, cards) in [
            ("4111 1111 1111 1111 12/27", 0, 1),
            ("no. 12 4111-1111-1111-1111", 0, 1),
            ("3782 822463 10005 09/26", 0, 1),
            ("Call 555-123-4567 2 bedrooms", 1, 0),
            ("Call 555-123-4567 2bedrooms", 1, 0),
            ("555-123-4567/555-123-4568", 2, 0),
            ("5 (555) 123-4567", 1, 0),
            ("Tel.555-123-4567", 1, 0),
        ] {
            let found = count(caption);
            assert_eq!((found[1], found[2]), (phones, cards), "{caption}");
        }
        for caption in [
            "ISBN 978-612-4516-27-2",
            "01/02/2003-05/06/2007 and 2010-01-02 2010-01-03",
            "1920x1080 2560x1440, 120 x 130 x 1400 mm",
            "4111 1111 1111 1112 12/27",
            "3.5 555-123-4567-8",
        ] {
            assert_eq!(count(caption), [0; 5], "{caption}");
        }
    }

    #[test]
    fn an_internet_address_is_found_in_an_address_of_the_web_and_before_a_port() {
        for caption in [
            "192.168.0.1:8080",
            "http://192.168.0.1/x",
            "(http://user@192.168.0.1:80/a/b?c=10:30)",
            "http://[2001:db8::1]:8080/",
            "10.0.0.0/8",
        ] {
            assert_eq!(count(caption)[4], 1, "{caption}");
        }
        for caption in ["http://a.example/192.168.0.1", "at 10:30", "1.2.3:80", "16:9 4:3"] {
            assert_eq!(count(caption)[4], 0, "{caption}");
        }
    }

    #[test]
    fn a_wrong_check_digit_is_no_card_and_no_account() {
        assert_eq!(count("4111 1111 1111 1112")[2], 0);
        assert_eq!(count("0000 0000 0000 0000")[2], 0);
        assert_eq!(count("GB83 WEST 1234 5698 7654 32")[3], 0);
        assert_eq!(count("DE89370400440532013000, and DE89 3704 0044 0532 0130 00.")[3], 2);
    }

    #[test]
    fn addresses_need_a_host_and_versions_of_four_numbers_are_taken_for_one() {
        assert_eq!(count("@home, me@work, a@b.c, x@y.example")[0], 1);
        assert_eq!(count("2001:db8::1 at 10:30:45 or fe80::1:2")[4], 2);
        assert_eq!(count("version 1.2.3.4 and 1.2.3 and 256.1.1.1")[4], 1);
    }

    #[test]
    fn a_token_takes_the_place_of_the_whole_of_it_and_of_nothing_else() {
        for (text, expected) in [
            ("write to ann.lee+x@mail.example.org today", "write to [EMAIL] today"),
            ("<me@site.example>, or ü@site.example.", "<[EMAIL]>, or [EMAIL]."),
            ("at me@site.example...", "at [EMAIL]..."),
            ("call (555) 123-4567 now", "call [PHONE] now"),
            ("call +1 (555) 123-4567 now", "call [PHONE] now"),
            ("(+49 30 901820)", "([PHONE])"),
            ("tel:(+49) 30 901820", "tel:[PHONE]"),
            ("+(49) 30 901820", "[PHONE]"),
            ("(call 030 12 34 56 78)", "(call [PHONE])"),
            ("card 4111 1111 1111 1111, 2027", "card [CARD], 2027"),
            ("IBAN GB82 WEST 1234 5698 7654 32.", "IBAN [IBAN]."),
            ("é 192.168.0.1, fe80::1:2", "é [IP], [IP]"),
            ("see http://user@192.168.0.1:80/a", "see http://user@[IP]:80/a"),
            ("4111 1111 1111 1111 12/27", "[CARD] 12/27"),
            ("5 (555) 123-4567", "5 [PHONE]"),
            ("555-123-4567/555-123-4568", "[PHONE]/[PHONE]"),
            ("Call 555-123-4567 2 bedrooms", "Call [PHONE] 2 bedrooms"),
            ("a red car, 1967", "a red car, 1967"),
        ] {
            assert_eq!(mask(text, &PiiKind::ALL), expected);
            assert_eq!(count(expected), [0; 5], "nothing is left to mask");
        }
    }

    #[test]
    fn a_number_is_found_whatever_signs_join_it() {
        for caption in [
            "tel +49\u{a0}30\u{a0}901820",
            "tel +49\u{202f}30\u{202f}901820",
            "call 555\u{2013}123\u{2013}4567",
            "call 555\u{2011}123\u{2011}4567",
            "call 555 - 123 - 4567",
            "(555) - 123 - 4567",
            "030 / 901820",
        ] {
            assert_eq!(count(caption), [0, 1, 0, 0, 0], "{caption}");
            assert!(!mask(caption, &PiiKind::ALL).contains(|c: char| c.is_ascii_digit()));
        }
        for caption in ["4111\u{a0}1111\u{a0}1111\u{a0}1111", "4111 - 1111 - 1111 - 1111"] {
            assert_eq!(mask(caption, &PiiKind::ALL), "[CARD]");
        }
    }

    #[test]
    fn a_word_behind_a_number_hides_no_digit_of_it() {
        for (caption, masked) in [
            ("555-123-4567x89", "[PHONE]x89"),
            ("555-123-4567ext 5", "[PHONE]ext 5"),
            ("4111 1111 1111 1111VISA", "[CARD]VISA"),
            ("+4930901820x12", "[PHONE]x12"),
            ("+49 30 901820x12", "[PHONE]x12"),
        ] {
            assert_eq!(mask(caption, &PiiKind::ALL), masked);
        }
    }

    #[test]
    fn a_number_that_another_follows_is_found_whole() {
        for (caption, masked) in [
            ("+44 20 7946 0958 2024", "[PHONE] 2024"),
            ("+44 20 7946 0958 2024 2025", "[PHONE] 2024 2025"),
            ("+44 7911 123456 020 7946 0958", "[PHONE] [PHONE]"),
            ("+49 170 1234567 12345", "[PHONE] 12345"),
            ("020 7946 0958 2024", "[PHONE] 2024"),
            ("030 901820 030 901821", "[PHONE] [PHONE]"),
            ("030 123456 01 2345678", "[PHONE] [PHONE]"),
            ("0049 30 901820 030 901821", "[PHONE] [PHONE]"),
            ("555-123-4567-2024", "[PHONE]-2024"),
            ("555 123 4567 2024", "[PHONE] 2024"),
            ("555 123 4567 2 bedrooms", "[PHONE] 2 bedrooms"),
        ] {
            assert_eq!(mask(caption, &PiiKind::ALL), masked, "{caption}");
        }
        // Fifteen digits are the most: which are the year's cannot be told.
        assert_eq!(mask("+1 555 123 4567 2024-05-01", &PiiKind::ALL), "[PHONE]-05-01");
        // 5551234567-8123 has a right check digit by chance and is no card.
        assert_eq!(count("555-123-4567-8123"), [0, 1, 0, 0, 0]);
    }

    #[test]
    fn two_zeros_before_a_country_are_a_plus_sign() {
        for caption in [
            "0049 30 901820",
            "0049 170 1234567",
            "00 49 30 901820",
            "0033 1 23 45 67 89",
            "00491701234567",
        ] {
            assert_eq!(mask(caption, &PiiKind::ALL), "[PHONE]", "{caption}");
        }
        for caption in
            ["part 00123456", "000 123 456 789", "00000001234567", "00.30 - 12.00 / 13.00 - 18.00"]
        {
            assert_eq!(count(caption), [0; 5], "{caption}");
        }
    }

    #[test]
    fn an_account_is_found_in_full_by_the_length_of_its_country() {
        for (caption, masked) in [
            // Its first 16 letters and digits have the remainder 1 too.
            ("DE04 8861 3682 9401 3967 89", "[IBAN]"),
            ("IBAN:DE89370400440532013000", "IBAN:[IBAN]"),
            ("IBAN DE89370400440532013000/BIC X", "IBAN [IBAN]/BIC X"),
            ("DE89-3704-0044-0532-0130-00", "[IBAN]"),
            ("de89 3704 0044 0532 0130 00", "[IBAN]"),
            ("DE89\u{a0}3704\u{a0}0044\u{a0}0532\u{a0}0130\u{a0}00.", "[IBAN]."),
            ("GB82 WEST 123456 98765432", "[IBAN]"),
            ("DE89 3704 0044 0532 0130 00 4111 1111 1111 1111", "[IBAN] [CARD]"),
            ("DE89 3704 0044 0532 0130 00 030 901820", "[IBAN] [PHONE]"),
        ] {
            assert_eq!(mask(caption, &PiiKind::ALL), masked, "{caption}");
        }
        // One digit more, or less, than the country's accounts have.
        assert_eq!(count("DE893704004405320130001")[3], 0);
        assert_eq!(count("be68 some blue words here")[3], 0);
    }

    #[test]
    fn an_internet_address_is_found_beside_words_and_others() {
        for (caption, masked) in [
            ("IP:192.168.0.1", "IP:[IP]"),
            ("ip=10.0.0.1", "ip=[IP]"),
            ("10.0.0.1,10.0.0.2", "[IP],[IP]"),
            ("10.0.0.1-10.0.0.9", "[IP]-[IP]"),
            ("10.0.0.1/10.0.0.2", "[IP]/[IP]"),
            ("fe80::1:2%eth0", "[IP]%eth0"),
            ("::ffff:192.0.2.1", "[IP]"),
            ("IP:2001:db8::1", "IP:[IP]"),
            ("\"2001:db8::1\";x", "\"[IP]\";x"),
            ("src=http://203.0.113.7/x", "src=http://[IP]/x"),
        ] {
            assert_eq!(mask(caption, &PiiKind::ALL), masked, "{caption}");
        }
        for caption in ["v1.2.3.4", "1.2.3.4.5", "a_10.0.0.1", "std::io::Read", "16:9:4"] {
            assert_eq!(count(caption), [0; 5], "{caption}");
        }
    }

    #[test]
    fn a_mail_address_is_as_long_as_it_is_sound() {
        for (caption, masked) in [
            ("bob@gmail.com.5 stars", "[EMAIL].5 stars"),
            ("write bob@gmail.com-we answer", "write [EMAIL]-we answer"),
            ("bob@gmail.com-", "[EMAIL]-"),
            ("bob@gmail.com2 rooms", "[EMAIL]2 rooms"),
            ("user@xn--bcher-kva.xn--p1ai", "[EMAIL]"),
            ("bob@m\u{fc}nchen.de", "[EMAIL]"),
            ("o'brein@example.com", "[EMAIL]"),
            ("'bob@example.com'", "'[EMAIL]'"),
            ("j\u{fc}rgen@example.de", "[EMAIL]"),
            ("ju\u{308}rgen@example.de", "[EMAIL]"),
            ("http://me@site.example/", "http://[EMAIL]/"),
            // Chinese has no blanks between words.
            ("\u{8054}\u{7cfb}bob@example.com\u{8054}", "\u{8054}\u{7cfb}[EMAIL]\u{8054}"),
        ] {
            assert_eq!(mask(caption, &PiiKind::ALL), masked, "{caption}");
        }
        for caption in ["$@shop.example", "pkg@4.17.21", "me@work", "a.@b.example"] {
            assert_eq!(count(caption), [0; 5], "{caption}");
        }
    }

    #[test]
    fn ordinary_numbers_are_no_personal_data() {
        for caption in [
            "Paris in 1889, 1900 and 1937",
            "from 1,299.00 to 1 299 000 EUR",
            "population 1 050 000 000 in 2024",
            "1920x1080 and 3840x2160 px",
            "ISBN 978 612 4516 27 2",
            "ISBN 0-306-40615-2, 978-0-306-40615-7",
            "open 01.05.2019 - 03.10.2019",
            "Mo 08.00 - 12.00 / 13.00 - 18.00",
            "summers 2010 - 2011 - 2012 - 2013",
            "2010-01-02 2010-01-03 2010-01-04",
            "sizes 02-04-06-08-10-12",
            "kernel 5.15.0-91, pi 3.14159 26535 89793",
            "12:30 - 13:45, track 07",
            "GPS 52.5200 N 13.4050 E",
        ] {
            assert_eq!(count(caption), [0; 5], "{caption}");
        }
    }

    /// Numbers that follow from a seed.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, most: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % most
        }

        fn digits(&mut self, count: usize) -> String {
            (0..count).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
        }
    }

    /// In groups of these sizes, the last again and again.
    fn grouped(number: &str, sizes: &[usize], sign: &str) -> String {
        let (mut groups, mut rest) = (Vec::new(), number);
        for size in sizes.iter().chain(std::iter::repeat(&sizes[sizes.len() - 1])) {
            let (group, behind) = rest.split_at(rest.len().min(*size));
            groups.push(group);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        groups.join(sign)
    }

    #[test]
    fn of_no_account_card_or_number_with_a_plus_a_digit_is_left() {
        let signs = [
            "",
            " ",
            "-",
            ".",
            "\u{a0}",
            "\u{202f}",
            "\u{2010}",
            "\u{2011}",
            "\u{2012}",
            "\u{2013}",
            "\u{2014}",
            " - ",
            " \u{2013} ",
        ];
        let around =
            [("", ""), ("call ", " now"), ("(", ")"), ("no: ", ", thanks"), ("\u{e9} ", ".")];
        let mut dice = Dice(7);
        let check = |number: &str, sizes: &[usize], token: &str| {
            for sign in signs {
                for (before, behind) in around {
                    let text = format!("{before}{}{behind}", grouped(number, sizes, sign));
                    let masked = mask(&text, &PiiKind::ALL);
                    assert_eq!(masked, format!("{before}{token}{behind}"), "{text}");
                }
            }
        };
        for _ in 0..200 {
            // The countries' own forms: letters of the bank, then digits.
            for (country, letters, digits) in [
                ("DE", "", 18),
                ("GB", "WEST", 14),
                ("NL", "ABNA", 10),
                ("NO", "", 11),
                ("FR", "", 23),
                ("PL", "", 24),
            ] {
                let bank = format!("{letters}{}", dice.digits(digits));
                let number = |check: u32| format!("{country}{check:02}{bank}");
                let sound = (2..=98).map(number).find(|account| iban::is_sound(account.as_bytes()));
                check(&sound.unwrap(), &[4], "[IBAN]");
            }
            for (head, size, sizes) in [
                ("4", 16, &[4][..]),
                ("37", 15, &[4, 6, 5]),
                ("36", 14, &[4, 6, 4]),
                ("62", 19, &[4]),
            ] {
                let body = format!("{head}{}", dice.digits(size - 1 - head.len()));
                let card = (0..10).map(|last| format!("{body}{last}")).find(|card| {
                    numbers::luhn(&card.bytes().map(|b| b - b'0').collect::<Vec<_>>())
                });
                check(&card.unwrap(), sizes, "[CARD]");
            }
            let size = 8 + dice.below(8) as usize;
            let number = format!("+{}{}", 1 + dice.below(9), dice.digits(size - 1));
            check(&number, &[3, 2, 3], "[PHONE]");
            check(&number, &[2, 3, 4], "[PHONE]");
        }
    }

    #[test]
    fn kinds_that_are_not_asked_for_stay() {
        let text = "a@b.example and c@d.example or 555-123-4567 from 10.0.0.1";
        let masked = mask(text, &[PiiKind::Email, PiiKind::Ip]);
        assert_eq!(masked, "[EMAIL] and [EMAIL] or 555-123-4567 from [IP]");
        assert_eq!(mask(text, &[PiiKind::Card]), text);
    }

    #[test]
    fn what_overlaps_becomes_one_token() {
        assert_eq!(count("a@b.example@c.example")[0], 2);
        assert_eq!(mask("a@b.example@c.example", &PiiKind::ALL), "[EMAIL]");
    }

    #[test]
    fn any_text_is_masked_at_its_own_boundaries() {
        // Every text of six of these signs.
        let signs = ["@", "a", ".", "1", "ü", "\u{a0}", "(", "+"];
        for mut number in 0..signs.len().pow(6) {
            let mut text = String::new();
            for _ in 0..6 {
                text.push_str(signs[number % signs.len()]);
                number /= signs.len();
            }
            for finding in find(&text) {
                assert!(text.get(finding.range.clone()).is_some(), "{text}: {finding:?}");
            }
        }
    }
}
