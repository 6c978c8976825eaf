// The reverse proxy of Go's standard library.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	port, upstream, ca, token := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	target, err := url.Parse(upstream)
	if err != nil {
		log.Fatal(err)
	}
	certificates, err := os.ReadFile(ca)
	if err != nil {
		log.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(certificates)

	proxy := httputil.NewSingleHostReverseProxy(target)
	toTarget := proxy.Director
	proxy.Director = func(request *http.Request) {
		toTarget(request)
		request.Host = target.Host
		request.Header.Set("Authorization", "Bearer "+token)
	}
	proxy.Transport = &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS13},
		MaxIdleConnsPerHost: 64,
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, proxy))
}
