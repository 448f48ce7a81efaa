use std::path::Path;

use serde::de::DeserializeOwned;

use super::*;

fn choices() -> Choices {
    Choices {
        gateway_listen: "127.0.0.1:8080".parse().unwrap(),
        tls: Tls {
            listen: "127.0.0.1:8443".parse().unwrap(),
            certificate: "/tls/certificate.pem".into(),
            key: "/tls/key.pem".into(),
        },
        own_certificate: None,
        central_listen: "127.0.0.1:0".parse().unwrap(),
        gateway_url: "https://stats.example".into(),
        geo_database: Some("/geo/places.mmdb".into()),
    }
}

fn known() -> Addresses {
    let address = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
    Addresses { listen: address(1), admin: address(2), uplink: address(3), tls: address(4) }
}

fn parsed<C: DeserializeOwned>(folder: &DataFolder, role: &str) -> C {
    toml::from_str(&std::fs::read_to_string(file(folder, role)).unwrap()).unwrap()
}

/// With a character that TOML and URLs escape.
fn folder(root: &Path) -> DataFolder {
    DataFolder::open(&root.join("my \"data\"")).unwrap()
}

#[test]
fn every_role_reads_what_is_written_for_it() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path());
    let uplink = "127.0.0.1:50051".parse().unwrap();
    for known in [Addresses::default(), known()] {
        write_central(&folder, &choices(), known).unwrap();
        write_aggregator(&folder, uplink, known).unwrap();
        write_gateway(&folder, &choices(), uplink, known).unwrap();
        let central: central::Config = parsed(&folder, "central");
        assert_eq!(central.data, folder.root().join("central"));
        let _: aggregator::Config = parsed(&folder, "aggregator");
        let gateway: gateway::Config = parsed(&folder, "gateway");
        assert_eq!(gateway.tls.unwrap().listen.port(), known.tls.map_or(8443, |address| address.port()));
    }
}

#[test]
fn a_restarted_role_comes_back_on_the_addresses_it_had() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path());
    write_central(&folder, &choices(), Addresses::default()).unwrap();
    let first: central::Config = parsed(&folder, "central");
    assert_eq!((first.listen.port(), first.admin.port(), first.uplink.port()), (0, 0, 0));
    assert_eq!(first.public_url, None, "the port is not known yet");

    write_central(&folder, &choices(), known()).unwrap();
    let again: central::Config = parsed(&folder, "central");
    assert_eq!((again.listen.port(), again.admin.port(), again.uplink.port()), (1, 2, 3));
    assert_eq!(again.public_url.as_deref(), Some("http://127.0.0.1:1"));
}
