package inspect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/metallb/cloud-provider-metallb/service"
)

// ParsePrefix reads a prefix, or an address as the prefix that has only it.
func ParsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither a prefix nor an address", text)
	}
	return prefix.Masked(), nil
}

// Search returns the Services that a text means, as namespace/name: those that show or ask for an address, or one in a prefix; the one
// that is named so; those named so in any namespace; or else those whose names have the text as a part.
func (v *View) Search(text string) ([]string, error) {
	if prefix, err := ParsePrefix(text); err == nil {
		var all []string
		for _, svc := range v.services {
			if slices.ContainsFunc(slices.Concat(service.Addresses(svc.Service), service.Request(svc.Service).Addrs), prefix.Contains) {
				all = append(all, service.Name(svc.Service))
			}
		}
		if all == nil {
			return nil, NoSuch{What: "Service that shows or asks for an address in", Name: prefix.String()}
		}
		return all, nil
	}
	var named, parts []string
	for _, svc := range v.services {
		switch name := service.Name(svc.Service); {
		case name == text:
			return []string{name}, nil
		case svc.Name == text:
			named = append(named, name)
		case strings.Contains(name, text):
			parts = append(parts, name)
		}
	}
	switch {
	case named != nil:
		return named, nil
	case parts != nil:
		return parts, nil
	}
	return nil, unknown("Service of type LoadBalancer named", text, v.ServiceNames())
}
