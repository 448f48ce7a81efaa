"""Makes places.mmdb beside it: where the demo's simulated visitors are, so that its dashboard has countries.

python3 -m venv /tmp/mmdb && /tmp/mmdb/bin/pip install mmdb-writer==0.2.7 netaddr && /tmp/mmdb/bin/python places.py

The networks are those of loadtest/src/visitor.rs; real databases are the operator's choice (--geo-database).
"""
from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

COUNTRIES = {
    "73.162.0.0/16": ("US", "United States"),
    "86.140.0.0/16": ("GB", "United Kingdom"),
    "91.12.0.0/16": ("DE", "Germany"),
    "90.45.0.0/16": ("FR", "France"),
    "84.26.0.0/16": ("NL", "Netherlands"),
    "90.230.0.0/16": ("SE", "Sweden"),
    "83.36.0.0/16": ("ES", "Spain"),
    "99.230.0.0/16": ("CA", "Canada"),
    "126.40.0.0/16": ("JP", "Japan"),
    "117.200.0.0/16": ("IN", "India"),
    "179.210.0.0/16": ("BR", "Brazil"),
    "1.124.0.0/16": ("AU", "Australia"),
}

writer = MMDBWriter(6, "Tideline-Demo-Country", languages=["en"], description="The demo's visitors", ipv4_compatible=True)
for network, (code, name) in COUNTRIES.items():
    writer.insert_network(IPSet([network]), {"country": {"iso_code": code, "names": {"en": name}}})
writer.to_db_file(str(Path(__file__).parent / "places.mmdb"))
