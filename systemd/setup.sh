#!/bin/sh
# Installs gpu-supervisor as a systemd service, or takes that back; `make install-systemd`, `make uninstall-systemd`.
#
#   setup.sh install|uninstall
#
# PREFIX   an environment of its own (/opt/gpu-supervisor): the import name `supervisor` is also that of supervisord
# UNITDIR  for units that an administrator installs (/usr/local/lib/systemd/system)
# BINDIR   where the command is linked (/usr/local/bin)
# DESTDIR  everything below this folder, and systemd is not spoken to: for packages
# PYTHON   python3
# SYSTEMD_VERSION  of the machine it is for; asked of systemctl if not given
#
# The service files in /etc/gpu-supervisor are the administrator's: never written, never removed.
set -eu
umask 022

PREFIX=${PREFIX:-/opt/gpu-supervisor}
UNITDIR=${UNITDIR:-/usr/local/lib/systemd/system}
BINDIR=${BINDIR:-/usr/local/bin}
DESTDIR=${DESTDIR:-}
PYTHON=${PYTHON:-python3}
SYSTEMD_VERSION=${SYSTEMD_VERSION:-$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')}

UNIT=gpu-supervisor@.service
here=$(cd "$(dirname "$0")" && pwd)
root=$DESTDIR$PREFIX
units=$DESTDIR$UNITDIR
link=$DESTDIR$BINDIR/gpu-supervisor

refuse() {
  echo "cannot $1: $2" >&2
  echo "hint: $3" >&2
  exit 1
}

check() {
  case $DESTDIR in
    ''|/*) ;;
    *) refuse "$1 below \"$DESTDIR\"" "it is not absolute" "give DESTDIR from / on" ;;
  esac
  # Into the unit they go as they are, and what is removed is named by them.
  for path in "$PREFIX" "$UNITDIR" "$BINDIR"; do
    case $path in
      /*[!A-Za-z0-9/._+-]*|*/../*|*/..|/|[!/]*) refuse "$1 at \"$path\"" "it is not a plain absolute path" "use letters, digits and / . _ + -" ;;
    esac
  done
  [ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || refuse "$1" "only root may" "sudo make $1-systemd"
}

# A package's own copy of what it is built from, so that nothing is left in the tree and nothing old gets in.
copy_source() {
  mkdir -p "$1"
  cp "$here/../pyproject.toml" "$here/../README.md" "$here/../LICENSE" "$1"
  (cd "$here/.." && find supervisor -name __pycache__ -prune -o -type f -print | tar -cf - -T -) | tar -xf - -C "$1"
}

install_program() {
  if [ -e "$root" ] && [ ! -e "$root/pyvenv.cfg" ]; then
    refuse "install into $root" "something else is there" "name another place with PREFIX="
  fi
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || refuse install "$PYTHON is older than 3.11" "make install-systemd PYTHON=python3.11"
  # One that works is kept: daemons run from it. After the system's Python went to the next version it does not work.
  version='import sys; print(sys.version_info[:2])'
  if [ "$("$root/bin/python" -c "$version" 2>/dev/null)" != "$("$PYTHON" -c "$version")" ]; then
    "$PYTHON" -m venv --clear "$root" || refuse install "$PYTHON makes no environments" "apt-get install python3-venv"
  fi
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  copy_source "$work/source"
  "$root/bin/python" -m pip install --quiet --no-compile "$work/source"
  if [ -n "$DESTDIR" ]; then
    grep -rlIF "$root" "$root/bin" "$root/pyvenv.cfg" | while read -r file; do
      [ -L "$file" ] || sed -i "s|$root|$PREFIX|g" "$file"
    done
    "$root/bin/python" -m compileall -q -s "$root" -p "$PREFIX" "$root/lib" >/dev/null || :
  else
    "$root/bin/python" -m compileall -q "$root/lib" >/dev/null || :
  fi
}

install_unit() {
  mkdir -p "$units" "$DESTDIR$BINDIR" "$DESTDIR/etc/gpu-supervisor"
  sed "s|/opt/gpu-supervisor/|$PREFIX/|g" "$here/$UNIT" >"$units/$UNIT.new"
  chmod 0644 "$units/$UNIT.new"
  mv "$units/$UNIT.new" "$units/$UNIT"
  rm -rf "$units/$UNIT.d"
  if [ "${SYSTEMD_VERSION:-0}" -ge 254 ]; then
    mkdir -p "$units/$UNIT.d"
    install -m 0644 "$here/$UNIT.d/50-subgroup.conf" "$units/$UNIT.d/50-subgroup.conf"
  fi
  if [ ! -e "$link" ] || [ -L "$link" ]; then
    ln -sfn "$PREFIX/bin/gpu-supervisor" "$link"
  else
    echo "$BINDIR/gpu-supervisor is a file of somebody else and stays" >&2
  fi
}

tell_systemd() {
  if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

case ${1:-} in
  install)
    check install
    install_program
    install_unit
    tell_systemd
    echo "installed; next: write $DESTDIR/etc/gpu-supervisor/NAME.yaml, then systemctl enable --now gpu-supervisor@NAME"
    ;;
  uninstall)
    check uninstall
    if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
      running=$(systemctl list-units --plain --no-legend --state=active,activating,reloading,deactivating \
        'gpu-supervisor@*.service' | awk '{print $1}')
      [ -z "$running" ] || refuse uninstall "$(echo "$running" | tr '\n' ' ')still runs" \
        "systemctl disable --now 'gpu-supervisor@*'"
    fi
    [ "$(readlink "$link" 2>/dev/null)" != "$PREFIX/bin/gpu-supervisor" ] || rm "$link"
    rm -rf "$units/$UNIT" "$units/$UNIT.d"
    [ ! -e "$root/pyvenv.cfg" ] || rm -rf "$root"
    rmdir "$DESTDIR/etc/gpu-supervisor" 2>/dev/null || :
    tell_systemd
    ;;
  *)
    sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
    ;;
esac
