use proptest::prelude::*;

use super::*;

fn from(page: &str, referrer: &str) -> VisitDimensions {
    let referrer = (!referrer.is_empty()).then(|| Url::parse(referrer).unwrap());
    attribute(&Url::parse(page).unwrap(), referrer.as_ref())
}

#[test]
fn source_and_channel_of_the_links_people_follow() {
    const PAGE: &str = "https://www.shop.example/";
    for (page, referrer, source, channel) in [
        (PAGE, "", "", "Direct"),
        (PAGE, "https://shop.example/cart", "", "Direct"),
        (PAGE, "https://www.google.com/", "Google", "Organic Search"),
        (PAGE, "https://www.google.co.uk/search?q=shoes", "Google", "Organic Search"),
        (PAGE, "https://google.de/", "Google", "Organic Search"),
        (PAGE, "https://google.example.org/", "google.example.org", "Referral"),
        (PAGE, "https://notgoogle.com/", "notgoogle.com", "Referral"),
        (PAGE, "https://news.google.com/", "Google News", "Referral"),
        (PAGE, "https://mail.google.com/mail/u/0", "Gmail", "Email"),
        (PAGE, "https://www.bing.com/", "Bing", "Organic Search"),
        (PAGE, "https://duckduckgo.com/", "DuckDuckGo", "Organic Search"),
        (PAGE, "https://de.search.yahoo.com/", "Yahoo!", "Organic Search"),
        (PAGE, "https://www.baidu.com/link", "Baidu", "Organic Search"),
        (PAGE, "https://yandex.ru/", "Yandex", "Organic Search"),
        (PAGE, "https://www.ecosia.org/", "Ecosia", "Organic Search"),
        (PAGE, "https://l.facebook.com/l.php", "Facebook", "Organic Social"),
        (PAGE, "https://l.instagram.com/", "Instagram", "Organic Social"),
        (PAGE, "https://t.co/abc", "X", "Organic Social"),
        (PAGE, "https://www.linkedin.com/feed", "LinkedIn", "Organic Social"),
        (PAGE, "https://old.reddit.com/r/rust", "Reddit", "Organic Social"),
        (PAGE, "https://news.ycombinator.com/item", "Hacker News", "Organic Social"),
        (PAGE, "https://www.pinterest.co.uk/", "Pinterest", "Organic Social"),
        (PAGE, "https://web.whatsapp.com/", "WhatsApp", "Organic Social"),
        (PAGE, "https://t.me/news", "Telegram", "Organic Social"),
        (PAGE, "https://www.youtube.com/watch", "YouTube", "Organic Video"),
        (PAGE, "https://www.tiktok.com/", "TikTok", "Organic Video"),
        (PAGE, "https://www.amazon.com.au/dp/1", "Amazon", "Organic Shopping"),
        (PAGE, "https://github.com/tideline", "GitHub", "Referral"),
        (PAGE, "https://chatgpt.com/", "ChatGPT", "AI Assistants"),
        (PAGE, "https://www.perplexity.ai/search", "Perplexity", "AI Assistants"),
        (PAGE, "https://www.blog.example/post", "blog.example", "Referral"),
        (PAGE, "android-app://com.google.android.googlequicksearchbox/", "Google", "Organic Search"),
        (PAGE, "android-app://com.google.android.gm/", "Gmail", "Email"),
        (PAGE, "android-app://com.reddit.frontpage/", "Reddit", "Organic Social"),
        (PAGE, "android-app://com.example.reader/", "com.example.reader", "Referral"),
        ("https://shop.example/?utm_source=newsletter&utm_medium=email", "", "newsletter", "Email"),
        ("https://shop.example/?utm_source=google&utm_medium=cpc", "https://google.com/", "Google", "Paid Search"),
        ("https://shop.example/?gclid=1", "https://www.google.com/", "Google", "Paid Search"),
        ("https://shop.example/?gclid=1", "", "", "Paid Search"),
        ("https://shop.example/?fbclid=1", "https://m.facebook.com/", "Facebook", "Organic Social"),
        ("https://shop.example/?utm_source=facebook&utm_medium=paid-social", "", "Facebook", "Paid Social"),
        ("https://shop.example/?utm_source=fb&utm_medium=cpm", "", "Facebook", "Paid Social"),
        ("https://shop.example/?utm_source=youtube&utm_medium=cpv", "", "YouTube", "Paid Video"),
        ("https://shop.example/?utm_source=adnet&utm_medium=cpm", "", "adnet", "Display"),
        ("https://shop.example/?utm_source=adnet&utm_medium=banner", "", "adnet", "Display"),
        (
            "https://shop.example/?utm_source=google&utm_medium=cpc&utm_campaign=Shopping-DE",
            "",
            "Google",
            "Paid Shopping",
        ),
        ("https://shop.example/?utm_source=x&utm_medium=cpc&utm_campaign=workshop", "", "X", "Paid Social"),
        ("https://shop.example/?utm_source=partner&utm_medium=affiliate", "", "partner", "Affiliates"),
        ("https://shop.example/?utm_medium=social", "", "", "Organic Social"),
        ("https://shop.example/?utm_source=app&utm_medium=push", "", "app", "Mobile Push"),
        ("https://shop.example/?ref=producthunt", "", "Product Hunt", "Organic Social"),
        ("https://shop.example/?ref=a&source=b&utm_source=c", "https://google.com/", "c", "Referral"),
        ("https://shop.example/?utm_source=&source=b", "https://google.com/", "b", "Referral"),
        ("https://shop.example/?utm_source=chatgpt.com", "", "ChatGPT", "AI Assistants"),
    ] {
        let visit = from(page, referrer);
        assert_eq!((visit.source.as_str(), visit.channel.as_str()), (source, channel), "{page} from {referrer:?}");
    }
}

#[test]
fn the_other_dimensions_come_as_they_are() {
    let visit = from(
        "https://Shop.Example/?utm_source=news&utm_medium=e%2Dmail&utm_campaign=Winter+sale&utm_content=top%0A&utm_term=%C3%A4&utm_term=b",
        "https://www.blog.example/post?token=secret#part",
    );
    assert_eq!(visit.hostname, "shop.example");
    assert_eq!(visit.referrer, "blog.example/post");
    assert_eq!(visit.utm_source, "news");
    assert_eq!(visit.utm_medium, "e-mail");
    assert_eq!(visit.utm_campaign, "Winter sale");
    assert_eq!(visit.utm_content, "top");
    assert_eq!(visit.utm_term, "ä");
    assert_eq!(from("https://shop.example/", "https://www.google.com/").referrer, "google.com");
    assert_eq!(from("https://shop.example/", "https://www.shop.example/a").referrer, "");
    assert_eq!(visit.country, "", "what the URL does not say stays empty");
}

#[test]
fn paths_are_normalised_and_nothing_more() {
    for (page, expected) in [
        ("https://shop.example", "/"),
        ("https://shop.example?q=1#top", "/"),
        ("https://shop.example/a/", "/a/"),
        ("https://shop.example/a", "/a"),
        ("https://shop.example/a/../b/./c?x#y", "/b/c"),
        ("https://shop.example/gr%C3%BC%C3%9Fe/%2F", "/gr%C3%BC%C3%9Fe/%2F"),
        ("https://shop.example/grüße", "/gr%C3%BC%C3%9Fe"),
    ] {
        assert_eq!(path(&Url::parse(page).unwrap()), expected);
    }
}

proptest! {
    #[test]
    fn a_long_path_is_cut_between_characters(letters in 1_990usize..2_000, rest in 0usize..20) {
        let page = format!("https://shop.example/{}{}", "a".repeat(letters), "ü".repeat(rest));
        let path = path(&Url::parse(&page).unwrap());
        prop_assert!(path.len() <= PATH_BYTES_MAX);
        let tail = path.trim_start_matches('/').trim_start_matches('a');
        prop_assert!(tail.len().is_multiple_of(3) && tail.bytes().step_by(3).all(|byte| byte == b'%'), "{tail}");
    }

    #[test]
    fn arbitrary_links_never_panic(page in "https?://[a-zA-Z0-9.ü]{1,20}/.{0,80}", referrer in "[a-z-]{1,12}://.{0,40}") {
        if let Ok(page) = Url::parse(&page) {
            let visit = attribute(&page, Url::parse(&referrer).ok().as_ref());
            prop_assert!(visit.source.len() <= VALUE_BYTES_MAX && visit.referrer.len() <= VALUE_BYTES_MAX);
            prop_assert!(!visit.channel.is_empty());
        }
    }
}
