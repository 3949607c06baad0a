# Whether nats-server is well. From 2.15 on a stream that met a full disk stays ill: once there is room (256 MB), the
# server is ended here, and Docker starts it again, which loses nothing.
wget -q -O /dev/null http://127.0.0.1:8222/healthz && exit 0
case $(printf 'GET /healthz HTTP/1.0\r\n\r\n' | nc -w 2 127.0.0.1 8222) in
*'write error'*) [ "$(df -Pk /data | awk 'NR == 2 { print $4 }')" -ge 262144 ] && kill -TERM 1 ;;
esac
exit 1
