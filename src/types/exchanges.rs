//! Named weekly trading hours of exchanges, as sessions of buckets and as calendars of series.
//!
//! The hours are those of the regular session of equities, without auctions before and after it, in the local time of the
//! exchange, as its rulebook and public pages state them (November 2026). They are one week that repeats: no holidays, no
//! early closes, no halts, and not the hours of earlier years.

/// Regular weekly trading hours of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Market identifier code of ISO 10383, or `FX`.
    pub name: &'static str,
    /// IANA zone of the hours.
    pub zone: &'static str,
    /// The sessions, as a query writes them.
    pub sessions: &'static str,
    /// Name in words.
    pub title: &'static str,
}

/// All exchanges, by name.
pub const EXCHANGES: &[Exchange] = &[
    Exchange {
        name: "FX",
        zone: "America/New_York",
        sessions: "sun-thu 17:00-17:00",
        title: "currencies, five days from 17:00 in New York",
    },
    Exchange { name: "XASX", zone: "Australia/Sydney", sessions: "mon-fri 10:00-16:00", title: "ASX, Sydney" },
    Exchange { name: "XETR", zone: "Europe/Berlin", sessions: "mon-fri 09:00-17:30", title: "Xetra, Frankfurt" },
    Exchange { name: "XFRA", zone: "Europe/Berlin", sessions: "mon-fri 08:00-22:00", title: "Börse Frankfurt" },
    Exchange {
        name: "XHKG",
        zone: "Asia/Hong_Kong",
        sessions: "mon-fri 09:30-12:00,mon-fri 13:00-16:00",
        title: "Hong Kong Exchanges",
    },
    Exchange { name: "XLON", zone: "Europe/London", sessions: "mon-fri 08:00-16:30", title: "London Stock Exchange" },
    Exchange { name: "XNAS", zone: "America/New_York", sessions: "mon-fri 09:30-16:00", title: "Nasdaq, New York" },
    Exchange {
        name: "XNYS",
        zone: "America/New_York",
        sessions: "mon-fri 09:30-16:00",
        title: "New York Stock Exchange",
    },
    Exchange { name: "XPAR", zone: "Europe/Paris", sessions: "mon-fri 09:00-17:30", title: "Euronext Paris" },
    Exchange {
        name: "XTKS",
        zone: "Asia/Tokyo",
        sessions: "mon-fri 09:00-11:30,mon-fri 12:30-15:30",
        title: "Tokyo Stock Exchange",
    },
    Exchange {
        name: "XTSE",
        zone: "America/Toronto",
        sessions: "mon-fri 09:30-16:00",
        title: "Toronto Stock Exchange",
    },
];

/// The exchange of a name.
pub fn exchange(name: &str) -> Option<&'static Exchange> {
    EXCHANGES.iter().find(|exchange| exchange.name == name)
}

/// Whether a text is a name rather than times: capital letters and digits that begin with a letter.
pub fn is_name(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
    text.bytes().next().is_some_and(|b| b.is_ascii_uppercase()) && text.bytes().all(legal)
}

/// The names of all exchanges, for messages.
pub fn names() -> String {
    EXCHANGES.iter().map(|exchange| exchange.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BucketText, Calendar, TimeBuckets, TimeUnit};
    use jiff::Timestamp;
    use serde_json::json;

    fn second(text: &str) -> i64 {
        format!("{text}:00Z").parse::<Timestamp>().unwrap().as_second()
    }

    /// First moment and end of the bucket of a time.
    fn bucket(session: &str, every: &str, at: &str) -> (i64, i64) {
        let text = BucketText { every, session: Some(session), ..BucketText::default() };
        let bucket = TimeBuckets::parse(&text, None, TimeUnit::S).unwrap().walk().at(second(at));
        (bucket.start, bucket.end)
    }

    fn day(name: &str, at: &str) -> (i64, i64) {
        bucket(name, "1d", at)
    }

    #[test]
    fn names_are_sorted_and_every_exchange_is_a_session_and_a_calendar() {
        assert!(EXCHANGES.is_sorted_by(|a, b| a.name < b.name));
        for Exchange { name, zone, sessions, .. } in EXCHANGES {
            assert!(is_name(name), "{name}");
            let calendar = Calendar::parse(&json!(name)).unwrap();
            let open: i64 = calendar.windows().unwrap().1.iter().map(|(from, to)| to - from).sum();
            assert!((20 * 3_600..=5 * 86_400).contains(&open), "{name}: {open}");
            // The name means what a query would write.
            for every in ["1d", "1h", "65m", "1w", "1M"] {
                let text = BucketText { every, zone: Some(zone), session: Some(sessions), ..BucketText::default() };
                let written = TimeBuckets::parse(&text, None, TimeUnit::S).unwrap();
                let mut at = second("2024-02-28T00:00");
                while at < second("2024-04-08T00:00") {
                    let named = BucketText { every, session: Some(name), ..BucketText::default() };
                    let named = TimeBuckets::parse(&named, None, TimeUnit::S).unwrap();
                    assert_eq!(named.walk().at(at), written.walk().at(at), "{name} {every} {at}");
                    at += 4_321;
                }
            }
        }
    }

    #[test]
    fn hours_follow_the_clock_of_the_exchange() {
        let span = |from: &str, to: &str| (second(from), second(to));
        // The clocks of New York change on Sunday 2024-03-10, those of London and Berlin on 2024-03-31.
        assert_eq!(day("XNYS", "2024-03-08T15:00"), span("2024-03-08T14:30", "2024-03-08T21:00"));
        assert_eq!(day("XNAS", "2024-03-11T15:00"), span("2024-03-11T13:30", "2024-03-11T20:00"));
        assert_eq!(day("XTSE", "2024-11-04T15:00"), span("2024-11-04T14:30", "2024-11-04T21:00"));
        assert_eq!(day("XLON", "2024-03-28T10:00"), span("2024-03-28T08:00", "2024-03-28T16:30"));
        assert_eq!(day("XLON", "2024-04-02T10:00"), span("2024-04-02T07:00", "2024-04-02T15:30"));
        assert_eq!(day("XETR", "2024-04-02T10:00"), span("2024-04-02T07:00", "2024-04-02T15:30"));
        assert_eq!(day("XFRA", "2024-03-28T10:00"), span("2024-03-28T07:00", "2024-03-28T21:00"));
        assert_eq!(day("XPAR", "2024-03-28T10:00"), span("2024-03-28T08:00", "2024-03-28T16:30"));
        // Sydney is 11 hours ahead until Sunday 2024-04-07, then 10.
        assert_eq!(day("XASX", "2024-04-05T01:00"), span("2024-04-04T23:00", "2024-04-05T05:00"));
        assert_eq!(day("XASX", "2024-04-08T01:00"), span("2024-04-08T00:00", "2024-04-08T06:00"));
        // Days of currencies have 23 and 25 hours where the clocks change between two openings: none does, since they
        // change on Sunday before 17:00.
        assert_eq!(day("FX", "2024-03-08T15:00"), span("2024-03-07T22:00", "2024-03-08T22:00"));
        assert_eq!(day("FX", "2024-03-10T21:30"), span("2024-03-10T21:00", "2024-03-11T21:00"));
        assert_eq!(day("FX", "2024-11-03T22:30"), span("2024-11-03T22:00", "2024-11-04T22:00"));
        // Saturday is between sessions: the next one.
        assert_eq!(day("FX", "2024-03-09T12:00"), span("2024-03-10T21:00", "2024-03-11T21:00"));
    }

    #[test]
    fn lunch_breaks_end_buckets_and_belong_to_no_day() {
        let hour = |name: &str, at: &str| bucket(name, "1h", at);
        let span = |from: &str, to: &str| (second(from), second(to));
        assert_eq!(day("XTKS", "2024-11-06T01:00"), span("2024-11-06T00:00", "2024-11-06T06:30"));
        assert_eq!(hour("XTKS", "2024-11-06T02:10"), span("2024-11-06T02:00", "2024-11-06T02:30"));
        assert_eq!(hour("XTKS", "2024-11-06T03:30"), span("2024-11-06T03:30", "2024-11-06T04:30"));
        assert_eq!(hour("XHKG", "2024-11-06T03:45"), span("2024-11-06T03:30", "2024-11-06T04:00"));
        // In the break: the session after it.
        assert_eq!(hour("XHKG", "2024-11-06T04:30"), span("2024-11-06T05:00", "2024-11-06T06:00"));
    }

    #[test]
    fn unknown_names_and_other_zones_are_refused() {
        let refused = |session: &str, zone: Option<&str>| {
            let text = BucketText { every: "1d", session: Some(session), zone, ..BucketText::default() };
            TimeBuckets::parse(&text, None, TimeUnit::S).unwrap_err().detail().to_owned()
        };
        assert!(refused("XXXX", None).contains("XNYS"));
        assert!(refused("24x7", None).contains("always open"));
        assert!(refused("XNYS", Some("Europe/London")).contains("not the zone of XNYS"));
        assert!(refused("xnys", None).contains("tz"));
        let text =
            BucketText { every: "1d", session: Some("XNYS"), zone: Some("America/New_York"), ..BucketText::default() };
        assert!(TimeBuckets::parse(&text, None, TimeUnit::S).is_ok());
    }
}
