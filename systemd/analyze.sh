#!/bin/sh
# What systemd itself says of the unit: no word may come from `verify`, and `security` may not get worse.
set -eu

# Workers inherit the unit's sandbox, so there is little of one; the unit says why. More than this is an accident.
EXPOSURE_MAX=96

here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unit=$folder/gpu-supervisor@.service
# The command is where it will be installed, and need not be there now.
sed "s|/opt/gpu-supervisor/bin/gpu-supervisor|/bin/true|" "$here/gpu-supervisor@.service" >"$unit"

# It ends with 0 also after words about unknown keys and bad values.
cp "$here/gpu-supervisor@.socket" "$folder"
systemd-analyze verify --man=no "$unit" "$folder/gpu-supervisor@.socket" 2>"$folder/said" || echo "it ended with $?" >>"$folder/said"
if [ -s "$folder/said" ]; then
  echo 'cannot use systemd/gpu-supervisor@.service: systemd-analyze verify has something to say' >&2
  cat "$folder/said" >&2
  exit 1
fi
echo 'verify: nothing to say'
systemd-analyze security --offline=true --no-pager --threshold=$EXPOSURE_MAX "$unit" >"$folder/security" || {
  cat "$folder/security"
  exit 1
}
tail -1 "$folder/security"
