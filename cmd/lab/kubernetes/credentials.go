package kubernetes

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/csv"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// A User is somebody the API server knows by a token of its own. Users may do only what RBAC objects say, so that a permission
// which our manifests forget is missing here too.
type User struct {
	Name   string // such as system:serviceaccount:metallb-system:metallb-speaker
	Groups []string
}

const (
	admin             = "admin"
	controllerManager = "system:kube-controller-manager"
	scheduler         = "system:kube-scheduler"
)

// An authority signs the certificates of one cluster alone, so that clients check whom they talk to, as they do in production.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// writeCertificates makes the authority, what the API server serves with and shows to kubelets, and the key that signs the tokens of
// service accounts.
func (c *Cluster) writeCertificates() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c.authority = authority{key: caKey, cert: &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "lab"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}}
	if err := writeCertificate(c.file("ca.crt"), c.authority.cert, c.authority.cert, caKey.Public(), caKey); err != nil {
		return err
	}
	accountKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return errors.Join(
		writeKey(c.file("service-accounts.key"), accountKey),
		c.issue("server", &x509.Certificate{
			Subject:     pkix.Name{CommonName: "control-plane"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames:    []string{"localhost"},
			IPAddresses: []net.IP{net.ParseIP(loopback), net.ParseIP(serviceAddr)},
		}),
		c.issue(KubeletClient, &x509.Certificate{
			Subject:     pkix.Name{CommonName: KubeletClient},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}),
	)
}

// issue completes a certificate, and writes it and its key to NAME.crt and NAME.key.
func (c *Cluster) issue(name string, cert *x509.Certificate) (err error) {
	if cert.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return err
	}
	cert.NotBefore, cert.NotAfter, cert.KeyUsage = c.authority.cert.NotBefore, c.authority.cert.NotAfter, x509.KeyUsageDigitalSignature
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return errors.Join(
		writeCertificate(c.file(name+".crt"), cert, c.authority.cert, key.Public(), c.authority.key),
		writeKey(c.file(name+".key"), key),
	)
}

func writeCertificate(path string, cert, signer *x509.Certificate, key crypto.PublicKey, signerKey crypto.Signer) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, signer, key, signerKey)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// writeUsers gives every user a random token, writes the list of them for the API server, and a kubeconfig file for each.
func (c *Cluster) writeUsers(users []User) error {
	users = append([]User{
		{Name: admin, Groups: []string{"system:masters"}},
		{Name: controllerManager},
		{Name: scheduler},
	}, users...)
	ca, err := os.ReadFile(c.file("ca.crt"))
	if err != nil {
		return err
	}
	var tokens bytes.Buffer
	table := csv.NewWriter(&tokens)
	c.kubeconfigs = map[string]string{}
	for _, user := range users {
		if _, twice := c.kubeconfigs[user.Name]; twice {
			return fmt.Errorf("two users are called %q", user.Name)
		}
		token := rand.Text()
		if err := table.Write([]string{token, user.Name, user.Name, strings.Join(user.Groups, ",")}); err != nil {
			return err
		}
		// The number keeps apart names that differ only in what a file name cannot hold.
		file := fmt.Sprintf("%d-%s.kubeconfig", len(c.kubeconfigs), strings.NewReplacer(":", "-", "/", "-").Replace(user.Name))
		c.kubeconfigs[user.Name] = c.file(file)
		config := clientcmdapi.NewConfig()
		config.Clusters["lab"] = &clientcmdapi.Cluster{Server: c.url(), CertificateAuthorityData: ca}
		config.AuthInfos[user.Name] = &clientcmdapi.AuthInfo{Token: token}
		config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: user.Name}
		config.CurrentContext = "lab"
		if err := clientcmd.WriteToFile(*config, c.file(file)); err != nil {
			return err
		}
	}
	table.Flush()
	return os.WriteFile(c.file("tokens.csv"), tokens.Bytes(), 0o600)
}
