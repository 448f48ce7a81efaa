//! Where a visit came from: what the page's URL and the referrer say, as source, campaign and channel.

mod channel;
mod known;

use proto::uplink::VisitDimensions;
use url::Url;

/// Bytes of one utm value, source or referrer that are kept: longer ones are nobody's campaign names.
const VALUE_BYTES_MAX: usize = 300;
/// Bytes of a path that are kept.
const PATH_BYTES_MAX: usize = 2_000;

/// The dimensions of a visit that begins on this page: source, referrer, utm_*, channel and hostname. The others are empty.
///
/// What the link says about itself (`utm_source`, else `source`, else `ref`) wins over the referrer. A referrer of the page's own
/// host is none: the visitor was here already.
pub fn attribute(page: &Url, referrer: Option<&Url>) -> VisitDimensions {
    let tags = Tags::read(page);
    let hostname = page.host_str().unwrap_or_default();
    let referrer = referrer.filter(|referrer| site(referrer.host_str().unwrap_or_default()) != site(hostname));

    let tagged = [&tags.utm_source, &tags.source, &tags.referrer].into_iter().find(|tag| !tag.is_empty());
    let known = match tagged {
        Some(tag) => known::by_tag(tag),
        None => referrer.and_then(Url::host_str).and_then(known::by_host),
    };
    let source = match (known, tagged) {
        (Some(known), _) => known.name.to_owned(),
        (None, Some(tag)) => tag.clone(),
        (None, None) => referrer.and_then(Url::host_str).map(site).map(shortened).unwrap_or_default(),
    };
    let channel = channel::of(&channel::Arrival {
        source: &source,
        group: known.map(|known| known.group),
        medium: &tags.utm_medium.to_lowercase(),
        campaign: &tags.utm_campaign.to_lowercase(),
        paid_click: tags.paid_click,
    });
    VisitDimensions {
        source,
        referrer: referrer.map(without_query).unwrap_or_default(),
        utm_source: tags.utm_source,
        utm_medium: tags.utm_medium,
        utm_campaign: tags.utm_campaign,
        utm_content: tags.utm_content,
        utm_term: tags.utm_term,
        channel: channel.to_owned(),
        hostname: hostname.to_owned(),
        ..VisitDimensions::default()
    }
}

/// The path as it is counted: as the URL standard normalises it, percent-encoded, without query and fragment. A trailing
/// slash stays: whether it names another page is the site's decision.
pub fn path(page: &Url) -> String {
    let path = page.path();
    let mut end = path.len().min(PATH_BYTES_MAX);
    if end < path.len() {
        // The path is ASCII by now; a cut inside `%C3` would leave half a byte.
        end = path.as_bytes()[end - 2..end].iter().position(|&byte| byte == b'%').map_or(end, |at| end - 2 + at);
    }
    match &path[..end] {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

/// What a link says about itself.
#[derive(Default)]
struct Tags {
    utm_source: String,
    utm_medium: String,
    utm_campaign: String,
    utm_content: String,
    utm_term: String,
    source: String,
    referrer: String,
    paid_click: bool,
}

impl Tags {
    fn read(page: &Url) -> Self {
        let mut tags = Self::default();
        for (key, value) in page.query_pairs() {
            let tag = match &*key {
                "utm_source" => &mut tags.utm_source,
                "utm_medium" => &mut tags.utm_medium,
                "utm_campaign" => &mut tags.utm_campaign,
                "utm_content" => &mut tags.utm_content,
                "utm_term" => &mut tags.utm_term,
                "source" => &mut tags.source,
                "ref" => &mut tags.referrer,
                "gclid" | "gbraid" | "wbraid" | "msclkid" | "twclid" | "ttclid" | "li_fat_id" => {
                    tags.paid_click = true; // Google, Microsoft, X, TikTok and LinkedIn mark paid clicks so; `fbclid` marks all
                    continue;
                }
                _ => continue,
            };
            if tag.is_empty() {
                *tag = shortened(value.trim());
            }
        }
        tags
    }
}

/// A host without the `www.` that means nothing.
fn site(host: &str) -> &str {
    host.strip_prefix("www.").unwrap_or(host)
}

/// Host and path. A query may hold what is nobody's business, and would make every referrer its own.
fn without_query(referrer: &Url) -> String {
    let host = site(referrer.host_str().unwrap_or_default());
    match referrer.path() {
        "/" => shortened(host),
        path => shortened(&format!("{host}{path}")),
    }
}

fn shortened(value: &str) -> String {
    value
        .chars()
        .filter(|c| !c.is_control())
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= VALUE_BYTES_MAX).then_some(c)
        })
        .collect()
}

#[cfg(test)]
mod tests;
