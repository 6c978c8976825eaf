// Go's net/http: a plan on the input, what was seen on the output (see real_clients.py).
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"sort"
	"sync"
)

type plan struct {
	URL    string `json:"url"`
	Calls  []call `json:"calls"`
	AtOnce bool   `json:"at_once"`
}

type call struct {
	Method  string            `json:"method"`
	Target  string            `json:"target"`
	Fields  map[string]string `json:"fields"`
	Body    *string           `json:"body"`
	Chunked bool              `json:"chunked"`
	Leaves  bool              `json:"leaves"`
}

type sight struct {
	Status   int         `json:"status"`
	Fields   [][2]string `json:"fields"`
	Length   int64       `json:"length"`
	Digest   string      `json:"digest"`
	Trailers [][2]string `json:"trailers"`
}

var client = http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func main() {
	var p plan
	check(json.NewDecoder(os.Stdin).Decode(&p))
	seen := make([]*sight, len(p.Calls))
	var running sync.WaitGroup
	for number := range p.Calls {
		running.Add(1)
		go func(number int) {
			defer running.Done()
			seen[number] = exchange(p.URL, p.Calls[number])
		}(number)
		if !p.AtOnce {
			running.Wait()
		}
	}
	running.Wait()
	whole := []*sight{}
	for _, one := range seen {
		if one != nil {
			whole = append(whole, one)
		}
	}
	check(json.NewEncoder(os.Stdout).Encode(whole))
}

func exchange(url string, c call) *sight {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, c.Method, url+c.Target, nil)
	check(err)
	for name, value := range c.Fields {
		request.Header.Set(name, value)
	}
	if c.Body != nil {
		file, err := os.Open(*c.Body)
		check(err)
		info, err := file.Stat()
		check(err)
		request.Body = file
		request.ContentLength = info.Size()
		if c.Chunked {
			request.ContentLength = -1
		}
	}
	response, err := client.Do(request)
	check(err)
	defer response.Body.Close()
	if c.Leaves {
		return nil
	}
	hash := sha256.New()
	length, err := io.Copy(hash, response.Body)
	check(err)
	return &sight{
		Status:   response.StatusCode,
		Fields:   pairs(response.Header),
		Length:   length,
		Digest:   hex.EncodeToString(hash.Sum(nil)),
		Trailers: pairs(response.Trailer),
	}
}

// In which order the names were is not known.
func pairs(header http.Header) [][2]string {
	all := [][2]string{}
	for name, values := range header {
		for _, value := range values {
			all = append(all, [2]string{name, latin1(value)})
		}
	}
	sort.SliceStable(all, func(one, other int) bool { return all[one][0] < all[other][0] })
	return all
}

// Every byte as a character: JSON has no bytes.
func latin1(value string) string {
	runes := []rune{}
	for _, one := range []byte(value) {
		runes = append(runes, rune(one))
	}
	return string(runes)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
