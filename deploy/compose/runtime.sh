# Makes the user that services run as, and the folders that volumes are mounted on, so that new volumes belong to it.
set -eu
groupadd --gid 10001 triune
useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin triune
install --directory --owner triune --group triune /blobs /cache /cache/crashes /runs /data /hub
chmod 755 /usr/local/bin/ready
