// Package provider is the cloud provider that Kubernetes' own service controller asks for addresses.
//
// The service controller watches Services, calls EnsureLoadBalancer, and writes what that returns into the Service's
// status; this package never writes a Service itself. What it decides is in a ledger: one loadbalancer.Allocator, and for
// each Service the reason why it waits. A ledger does no input or output.
//
// Cloud runs in an order that keeps every address where it is. First this process becomes the leader. Then it reads all
// Services from a quorum of the API server's storage, adopts every address that a status shows, and reserves the addresses
// that waiting Services ask for by name. Only then does the service controller begin to work. From then on memory outranks
// whatever object is handed in.
//
// Beside that, an admission decides which text of the user's ConfigMap is in force, and writes it to a second ConfigMap,
// which is the only one that speakers read.
package provider
