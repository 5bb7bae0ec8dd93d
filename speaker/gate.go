package speaker

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"k8s.io/klog/v2"
)

const (
	gatePause   = time.Second     // between two questions
	gateTimeout = 5 * time.Second // of each
)

// checkURL returns an error if nothing can be waited for at the URL.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--wait-for-url=%s: use a URL such as http://127.0.0.1:10256/healthz", text)
	}
	return nil
}

// gateClient uses no proxy, since what it asks is on this node, and leaves no connection behind.
func gateClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// passGate waits until the URL answers with success: routers shall send no traffic before the node can forward it. It
// reports false if ctx ended first.
func (s *Speaker) passGate(ctx context.Context, client *http.Client) bool {
	at := s.options.WaitForURL
	if at == "" {
		return true
	}
	s.status.set(func(s *status) { s.closed = "--wait-for-url does not answer with success" })
	waited := false
	for {
		err := ask(ctx, client, at)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			break
		}
		if !waited {
			klog.InfoS("Waiting before the first announcement", "url", at, "why", err)
			waited = true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(gatePause):
		}
	}
	if waited {
		klog.InfoS("Waited long enough", "url", at)
	}
	s.status.set(func(s *status) { s.closed = "" })
	return true
}

// ask returns nil if the URL answers with success.
func ask(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}
