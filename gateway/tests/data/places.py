"""Makes places-city.mmdb, places-country.mmdb and networks-asn.mmdb beside it: documentation addresses in invented places.

python3 -m venv /tmp/mmdb && /tmp/mmdb/bin/pip install mmdb-writer==0.2.7 netaddr && /tmp/mmdb/bin/python places.py
"""
from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

HERE = Path(__file__).parent

PLACES = {
    "192.0.2.0/25": {
        "country": {"iso_code": "US", "names": {"en": "United States", "de": "USA"}},
        "subdivisions": [{"iso_code": "CA", "names": {"en": "California"}}],
        "city": {"names": {"en": "San Francisco", "ja": "サンフランシスコ"}},
    },
    "192.0.2.128/25": {
        "country": {"iso_code": "GB", "names": {"en": "United Kingdom"}},
        "subdivisions": [{"iso_code": "SCT"}, {"iso_code": "EDH"}],
        "city": {"names": {"en": "Edinburgh"}},
    },
    "198.51.100.0/24": {"country": {"iso_code": "SG", "names": {"en": "Singapore"}}},
    "203.0.113.0/24": {"continent": {"code": "EU"}},
    "2001:db8:1::/48": {
        "country": {"iso_code": "DE", "names": {"en": "Germany"}},
        "subdivisions": [{"iso_code": "BE"}],
        "city": {"names": {"en": "Berlin", "de": "Berlin"}},
    },
}


def write(name, kind, records):
    writer = MMDBWriter(6, kind, languages=["en"], description="For tests: invented", ipv4_compatible=True)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(HERE / name))


write("places-city.mmdb", "Tideline-Test-City", PLACES)
write(
    "places-country.mmdb",
    "Tideline-Test-Country",
    {network: {"country": record["country"]} for network, record in PLACES.items() if "country" in record},
)
write("networks-asn.mmdb", "Tideline-Test-ASN", {"192.0.2.0/24": {"autonomous_system_number": 64496}})
