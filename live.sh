cd /tmp/q3live
for t in h2b.sh j2.sh h2d.sh; do echo "== $t"; timeout 150 ip netns exec q3 bash $t 2>&1; done
