"""The admin port: what the kubelet, Prometheus and an operator ask of a running proxy."""
