use super::*;

/// Made by `tests/data/places.py`: documentation addresses in invented places.
fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)
}

fn place(country: &str, region: &str, city: &str) -> Place {
    Place { country: country.to_owned(), region: region.to_owned(), city: city.to_owned() }
}

#[test]
fn a_city_database_gives_country_region_and_city() {
    let geo = Geo::try_open(&data("places-city.mmdb")).unwrap();
    for (address, expected) in [
        ("192.0.2.1", place("US", "US-CA", "San Francisco")),
        ("::ffff:192.0.2.1", place("US", "US-CA", "San Francisco")),
        ("192.0.2.200", place("GB", "GB-SCT", "Edinburgh")),
        ("198.51.100.1", place("SG", "", "")),
        ("203.0.113.1", Place::default()),
        ("2001:db8:1::5", place("DE", "DE-BE", "Berlin")),
        ("2001:db8:2::5", Place::default()),
        ("127.0.0.1", Place::default()),
    ] {
        assert_eq!(geo.look_up(address.parse().unwrap()), expected, "{address}");
    }
}

#[test]
fn a_country_database_gives_the_country() {
    let geo = Geo::try_open(&data("places-country.mmdb")).unwrap();
    assert_eq!(geo.look_up("192.0.2.1".parse().unwrap()), place("US", "", ""));
    assert_eq!(geo.look_up("2001:db8:1::5".parse().unwrap()), place("DE", "", ""));
}

#[test]
fn a_file_that_is_no_such_database_is_refused_with_its_name() {
    let refusal = |path: &Path| Geo::try_open(path).err().unwrap().to_string();

    let missing = refusal(Path::new("/nowhere/places.mmdb"));
    assert!(missing.starts_with("the geo database /nowhere/places.mmdb cannot be read: No such file"), "{missing}");

    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.mmdb");
    let whole = std::fs::read(data("places-city.mmdb")).unwrap();
    for bytes in [b"".as_slice(), b"not a database", &whole[..whole.len() / 2], &whole[whole.len() / 2..]] {
        std::fs::write(&broken, bytes).unwrap();
        let broken = refusal(&broken);
        assert!(broken.contains("broken.mmdb is no database in MaxMind's format, or it is damaged"), "{broken}");
    }

    let networks = refusal(&data("networks-asn.mmdb"));
    assert!(networks.contains("of type `Tideline-Test-ASN` that names no countries"), "{networks}");
}
