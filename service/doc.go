// Package service is what a Kubernetes Service says to this project: whether it is ours, what it asks for, and which
// addresses its status shows. The controller manager and the speakers agree because both ask this package.
package service
