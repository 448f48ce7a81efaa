//! The channel of a visit: the groups that marketers know from GA4, and one for the answer machines.

use super::known::Group;

/// What decides a channel. Medium and campaign in lower case.
pub struct Arrival<'a> {
    pub source: &'a str,
    pub group: Option<Group>,
    pub medium: &'a str,
    pub campaign: &'a str,
    /// The link carries the mark of a paid click.
    pub paid_click: bool,
}

/// The first group that fits, paid ones first. A visit without source and medium is `Direct`.
pub fn of(arrival: &Arrival) -> &'static str {
    let Arrival { source, group, medium, campaign, .. } = *arrival;
    let is = |wanted: Group| group == Some(wanted);
    let shopping = is(Group::Shopping) || says_shop(campaign);

    if source.is_empty() && medium.is_empty() && !arrival.paid_click {
        return "Direct";
    }
    if paid(medium) || (arrival.paid_click && medium.is_empty()) {
        return match group {
            _ if shopping => "Paid Shopping",
            Some(Group::Search) => "Paid Search",
            Some(Group::Social) => "Paid Social",
            Some(Group::Video) => "Paid Video",
            _ if arrival.paid_click && source.is_empty() => "Paid Search", // what marks a click is nearly always a search ad
            _ if medium == "cpm" => "Display",
            _ => "Paid Other",
        };
    }
    let lower = source.to_lowercase();
    match medium {
        "display" | "banner" | "expandable" | "interstitial" => "Display",
        "affiliate" | "affiliates" => "Affiliates",
        "audio" | "podcast" => "Audio",
        "sms" => "SMS",
        _ if lower == "sms" => "SMS",
        _ if is(Group::Email) || says_email(medium) || says_email(&lower) => "Email",
        _ if medium.ends_with("push") || medium.contains("notification") => "Mobile Push",
        _ if shopping => "Organic Shopping",
        "social" | "social-network" | "social-media" | "sm" | "social network" | "social media" => "Organic Social",
        _ if is(Group::Ai) => "AI Assistants",
        _ if is(Group::Social) => "Organic Social",
        _ if is(Group::Video) || medium.contains("video") => "Organic Video",
        _ if is(Group::Search) || medium == "organic" => "Organic Search",
        _ => "Referral",
    }
}

/// `cpc`, `cpm`, `ppc`, `paid`, `paid-social`, `retargeting`, …
fn paid(medium: &str) -> bool {
    medium.contains("cp") || medium == "ppc" || medium == "retargeting" || medium.starts_with("paid")
}

fn says_email(text: &str) -> bool {
    matches!(text, "email" | "e-mail" | "e_mail" | "e mail" | "mail") || text.contains("newsletter")
}

/// "shop" or "shopping" as a word, not as the end of "workshop".
fn says_shop(campaign: &str) -> bool {
    campaign.split(|c: char| !c.is_alphanumeric()).any(|word| matches!(word, "shop" | "shopping"))
}
