use super::*;

fn site(text: &str) -> Result<Site, SiteError> {
    text.parse()
}

#[test]
fn a_site_has_a_name_and_an_origin() {
    let expected = Site { name: "shop".into(), origins: vec!["https://shop.example".into()], timezone: None };
    assert_eq!(site("shop=https://shop.example"), Ok(expected));
}

#[test]
fn several_origins_and_a_timezone_are_taken() {
    let expected = Site {
        name: "my-shop.example".into(),
        origins: vec!["https://shop.example".into(), "http://localhost:3000".into()],
        timezone: Some("Asia/Kathmandu".into()),
    };
    assert_eq!(site("my-shop.example=https://Shop.example:443,http://localhost:3000;Asia/Kathmandu"), Ok(expected));
}

#[test]
fn origins_may_have_stars() {
    let origins = site("shop=https://*.Shop.example,http://localhost:*,https://shop.example/").unwrap().origins;
    assert_eq!(origins, ["https://*.shop.example", "http://localhost:*", "https://shop.example"]);
}

#[test]
fn what_is_missing_is_answered_with_the_form() {
    for text in ["", "shop", "shop=", "=https://shop.example", "shop=https://shop.example;", "shop=;UTC"] {
        assert_eq!(site(text), Err(SiteError::Form), "{text}");
    }
}

#[test]
fn what_is_no_origin_is_named() {
    for origin in
        ["shop.example", "https://*.com", "https://", "ftp://shop.example", "https://a.example/x", "http://u:p@h", "*"]
    {
        let error = site(&format!("shop={origin}")).unwrap_err();
        assert!(matches!(error, SiteError::Origin(_)) && error.to_string().contains(origin), "{error}");
    }
}

#[test]
fn a_name_that_would_break_the_snippet_is_refused() {
    assert_eq!(site("sh\"op=https://shop.example"), Err(SiteError::Name("sh\"op".into())));
    assert_eq!(site("sh op=https://shop.example"), Err(SiteError::Name("sh op".into())));
}
