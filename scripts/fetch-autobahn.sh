#!/usr/bin/env bash
# Sets up the Autobahn test suite for WebSockets in a cache folder. Prints the program to run it with, and nothing else when it is there
# already. The suite is Python 2.7's, which Debian last carried in bullseye: its packages are unpacked into that folder, never installed.
set -euo pipefail

version=0.8.2
cache=${TIDELINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tideline}
folder=$cache/autobahn-$version

fail() {
  echo "fetch-autobahn: $*" >&2
  exit 1
}

if [ ! -x "$folder/wstest" ]; then
  [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || fail 'the suite is set up on Debian on x86-64 only'
  for program in apt-get python3 cc; do command -v "$program" >/dev/null || fail "$program is needed: run scripts/machine.sh test"; done
  mkdir -p "$folder"
  echo "fetch-autobahn: setting up the suite $version in $folder" >&2
  # What an earlier try left half done goes. The folder keeps its name: where Python is unpacked is written into what is built with it.
  rm -rf "${folder:?}"/*
  cd "$folder"

  # The mirror that this machine uses has the older release as well.
  mirror=$({ cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true; } |
    sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' | head -1)
  [ -n "$mirror" ] || fail 'no Debian mirror is named in /etc/apt'
  mkdir -p apt/lists/partial apt/archives/partial packages
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bullseye main" >apt/sources.list
  options=(-qq -o "Dir::Etc::SourceList=$folder/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt" -o "Dir::Cache::Archives=$folder/apt/archives"
    -o APT::Sandbox::User=)
  apt-get "${options[@]}" update >&2
  (
    cd packages
    apt-get "${options[@]}" download python2.7 python2.7-minimal libpython2.7 libpython2.7-minimal libpython2.7-stdlib \
      libpython2.7-dev libssl1.1 libffi7 >&2
  )
  for package in packages/*.deb; do dpkg-deb --extract "$package" root; done

  cat >python <<'PYTHON'
#!/usr/bin/env bash
here=$(dirname "$(realpath "$0")")
export PYTHONWARNINGS=ignore LD_LIBRARY_PATH=$here/root/usr/lib/x86_64-linux-gnu PYTHONHOME=$here/root/usr PYTHONPATH=$here/installer:$here/site
exec "$here/root/usr/bin/python2.7" "$@"
PYTHON
  chmod +x python
  # The last pip that runs on it, by the pip that there is.
  python3 -m pip download --quiet --no-deps --python-version 2.7 --only-binary=:all: --dest packages pip==20.3.4 setuptools==44.1.1 wheel==0.37.1 >&2
  for package in packages/*.whl; do python3 -m zipfile --extract "$package" installer; done
  # All of what the suite draws in, as it was proved to work together.
  cat >pins.txt <<'PINS'
argparse==1.4.0
attrs==21.4.0
autobahn==0.10.9
Automat==22.10.0
cffi==1.15.1
constantly==15.1.0
cryptography==3.3.2
enum34==1.1.10
hyperlink==21.0.0
idna==2.10
incremental==22.10.0
ipaddress==1.0.23
Jinja2==2.11.3
klein==20.6.0
linecache2==1.0.0
MarkupSafe==1.1.1
pyasn1==0.5.1
pyasn1-modules==0.3.0
pycparser==2.21
PyHamcrest==1.10.1
pyOpenSSL==21.0.0
service-identity==21.1.0
six==1.17.0
traceback2==1.4.0
Tubes==0.2.1
Twisted==20.3.0
txaio==2.1.0
typing==3.10.0.0
ujson==2.0.3
unittest2==1.1.0
Werkzeug==1.0.1
wsaccel==0.6.6
zope.interface==5.5.2
PINS
  include=$folder/root/usr/include
  CFLAGS="-I$include/python2.7 -I$include/x86_64-linux-gnu/python2.7 -I$include" \
    ./python -m pip install --quiet --no-python-version-warning --no-warn-script-location --target site \
    "autobahntestsuite==$version" --constraint pins.txt >&2
  # Its parts come in several packages, and what a target folder lacks is the file that makes them one.
  touch site/zope/__init__.py
  printf '#!/usr/bin/env bash\nexec "$(dirname "$(realpath "$0")")/python" -m autobahntestsuite.wstest "$@"\n' >wstest.new
  chmod +x wstest.new
  ./wstest.new --help >/dev/null || fail 'the suite does not start'
  mv wstest.new wstest
  rm -rf apt packages
fi
echo "$folder/wstest"
