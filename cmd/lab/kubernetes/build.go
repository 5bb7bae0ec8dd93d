package kubernetes

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"
)

// The programs that Build makes.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Proxy             = "kube-proxy"
	Kubelet           = "kubelet"
	Kubectl           = "kubectl"
)

// ControlPlane are those that every Cluster needs.
var ControlPlane = []string{Etcd, APIServer, ControllerManager, Kubectl}

// The main package of each program; go.mod names the same ones as tools and says which version of them.
var mains = map[string]string{
	Etcd:              "go.etcd.io/etcd/server/v3",
	APIServer:         "k8s.io/kubernetes/cmd/kube-apiserver",
	ControllerManager: "k8s.io/kubernetes/cmd/kube-controller-manager",
	Scheduler:         "k8s.io/kubernetes/cmd/kube-scheduler",
	Proxy:             "k8s.io/kubernetes/cmd/kube-proxy",
	Kubelet:           "k8s.io/kubernetes/cmd/kubelet",
	Kubectl:           "k8s.io/kubernetes/cmd/kubectl",
}

// Binaries are the programs that Build has made.
type Binaries struct {
	Version string // of Kubernetes, such as v1.37.2
	Dir     string // where they are
}

// Path is where a program is.
func (b Binaries) Path(program string) string { return filepath.Join(b.Dir, program) }

// Other is the variable of the environment that names another version of Kubernetes than the lab's go.mod, such as v1.31.14.
const Other = "LAB_KUBERNETES"

// Build compiles programs of Kubernetes from the Go modules that the lab's go.mod or Other names, or finds them where an earlier Build left them:
// in the user's cache folder, outside every work tree. The first time takes minutes, and progress (which may be nil) shows how far it is.
//
// Start it from anywhere inside the repository. Two labs that build at once wait for each other.
func Build(ctx context.Context, progress io.Writer, programs ...string) (Binaries, error) {
	if progress == nil {
		progress = io.Discard
	}
	lab, err := moduleDir(ctx)
	if err != nil {
		return Binaries{}, err
	}
	recipe, err := readRecipe(ctx, lab)
	if err != nil {
		return Binaries{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return Binaries{}, fmt.Errorf("no folder to keep the built Kubernetes in: %w", err)
	}
	built := Binaries{
		Version: recipe.version,
		Dir:     filepath.Join(cache, "cloud-provider-metallb", "kubernetes-"+recipe.version+"-"+recipe.key()),
	}
	// A program gets its name when it is finished, so that it is there is enough.
	missing := func() []string {
		return slices.DeleteFunc(slices.Clone(programs), func(program string) bool { return exists(built.Path(program)) })
	}
	if len(missing()) == 0 {
		return built, nil
	}
	if err := os.MkdirAll(built.Dir, 0o755); err != nil {
		return Binaries{}, err
	}
	unlock, err := lock(ctx, built.Dir+".lock", progress)
	if err != nil {
		return Binaries{}, err
	}
	defer unlock()
	needed, folder := missing(), lab
	if recipe.other && len(needed) > 0 {
		fmt.Fprintf(progress, "preparing a module for Kubernetes %s\n", recipe.version)
		if folder, err = recipe.module(ctx, lab, built.Dir, programs); err != nil {
			return Binaries{}, fmt.Errorf("prepare Kubernetes %s: %w", recipe.version, err)
		}
	}
	for i, program := range needed {
		if i == 0 {
			fmt.Fprintf(progress, "building Kubernetes %s into %s: minutes for each program, and only once\n", recipe.version, built.Dir)
		}
		partial := built.Path(program) + ".partial"
		label := fmt.Sprintf("program %d of %d: %s", i+1, len(needed), program)
		from := folder
		if program == Etcd {
			from = lab // one version for all
		}
		if err := compile(ctx, from, program, label, partial, recipe.ldflags, progress); err != nil {
			return Binaries{}, fmt.Errorf("build %s: %w", program, err)
		}
		if err := os.Rename(partial, built.Path(program)); err != nil {
			return Binaries{}, err
		}
	}
	return built, nil
}

// moduleDir finds the lab's module, whose go.mod pins Kubernetes, from a working directory inside it or inside the module around it.
func moduleDir(ctx context.Context) (string, error) {
	const lab = "github.com/metallb/cloud-provider-metallb/cmd/lab"
	out, err := output(goCommand(ctx, ".", "list", "-m", "-f", "{{.Path}} {{.Dir}}"))
	if err != nil {
		return "", fmt.Errorf("find the lab's go.mod: %w", err)
	}
	path, dir, _ := strings.Cut(strings.TrimSpace(out), " ")
	switch path {
	case lab:
		return dir, nil
	case strings.TrimSuffix(lab, "/cmd/lab"):
		return filepath.Join(dir, "cmd", "lab"), nil
	}
	return "", fmt.Errorf("the working directory is in module %s: call the lab from inside %s", path, lab)
}

// Repository finds the root of this repository, where bin/, charts/ and manifests/ are, from a working directory inside it.
func Repository(ctx context.Context) (string, error) {
	lab, err := moduleDir(ctx)
	return filepath.Dir(filepath.Dir(lab)), err
}

// A recipe is all that decides what the binaries are, as far as we ever change it.
type recipe struct {
	version string // of Kubernetes
	other   bool   // than the lab's go.mod has
	modules string // those that hold a main package, with their versions
	goEnv   string
	ldflags string
}

func readRecipe(ctx context.Context, lab string) (recipe, error) {
	modules, err := output(goCommand(ctx, lab, "list", "-m", "-f", "{{.Path}} {{.Version}}", "k8s.io/kubernetes", "go.etcd.io/etcd/server/v3"))
	if err != nil {
		return recipe{}, fmt.Errorf("read the versions in the lab's go.mod: %w", err)
	}
	goEnv, err := output(goCommand(ctx, lab, "env", "GOVERSION", "GOOS", "GOARCH"))
	if err != nil {
		return recipe{}, err
	}
	r := recipe{modules: modules, goEnv: goEnv}
	for line := range strings.Lines(modules) {
		if version, ok := strings.CutPrefix(line, "k8s.io/kubernetes "); ok {
			r.version = strings.TrimSpace(version)
		}
	}
	if version := os.Getenv(Other); version != "" && version != r.version {
		r.modules, r.version, r.other = strings.Replace(modules, r.version, version, 1), version, true
	}
	number := strings.SplitN(strings.TrimPrefix(r.version, "v"), ".", 3)
	if len(number) != 3 {
		return recipe{}, fmt.Errorf("k8s.io/kubernetes has version %q in the lab's go.mod or in %s: expected v1.x.y", r.version, Other)
	}
	// Kubernetes learns its version from the linker alone, and without one says v0.0.0-master, which clients that compare
	// versions take for an ancient one.
	r.ldflags = "-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		r.ldflags += fmt.Sprintf(" -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s", pkg, r.version, number[0], number[1])
	}
	return r, nil
}

// module makes a module in a folder that needs nothing but this version of Kubernetes, with its parts in the versions that belong to it:
// Kubernetes' own go.mod names a folder of its repository for each. Checksums are those of Go's database.
func (r recipe) module(ctx context.Context, lab, folder string, programs []string) (string, error) {
	out, err := output(goCommand(ctx, lab, "mod", "download", "-json", "k8s.io/kubernetes@"+r.version))
	var module struct{ GoMod, Error string }
	if problem := json.Unmarshal([]byte(out), &module); problem != nil || err != nil {
		return "", errors.Join(err, problem, errors.New(module.Error))
	}
	theirs, err := os.ReadFile(module.GoMod)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "module lab.invalid/kubernetes\n\n%s\n\nrequire k8s.io/kubernetes %s\n", regexp.MustCompile(`(?m)^go .*$`).Find(theirs), r.version)
	for _, part := range regexp.MustCompile(`(?m)^\s+(k8s\.io/\S+) => \./staging/`).FindAllSubmatch(theirs, -1) {
		fmt.Fprintf(&text, "replace %s => %[1]s %s\n", part[1], r.part(ctx, lab, string(part[1])))
	}
	folder = filepath.Join(folder, "module")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(folder, "go.mod"), []byte(text.String()), 0o644); err != nil {
		return "", err
	}
	// This adds what else is needed to go.mod and go.sum.
	list := []string{"list", "-mod=mod", "-deps"}
	for _, program := range programs {
		if program != Etcd {
			list = append(list, mains[program])
		}
	}
	_, err = output(goCommand(ctx, folder, list...))
	return folder, err
}

// part is the version of a part: the one that belongs to it, or else the newest of the same minor that the module proxy has.
func (r recipe) part(ctx context.Context, lab, path string) string {
	wanted := "v0" + strings.TrimPrefix(r.version, "v1")
	if _, err := output(goCommand(ctx, lab, "mod", "download", path+"@"+wanted)); err == nil {
		return wanted
	}
	versions, _ := output(goCommand(ctx, lab, "list", "-m", "-versions", path)) // without any, go build says so if it needs the part
	for _, version := range slices.Backward(strings.Fields(versions)) {
		if strings.HasPrefix(version, wanted[:strings.LastIndex(wanted, ".")+1]) && !strings.Contains(version, "-") {
			return version
		}
	}
	return wanted
}

// key leaves out go.sum and all other modules on purpose: a test dependency more in the lab shall not cost ten minutes.
func (r recipe) key() string {
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, r.modules, r.goEnv, r.ldflags)))[:12]
}

// compile builds one program and counts the packages on the way.
func compile(ctx context.Context, lab, program, label, binary, ldflags string, progress io.Writer) error {
	pkg, start := mains[program], time.Now()
	var mu sync.Mutex
	status := "looking for its packages"
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		status = fmt.Sprintf(format, args...)
	}
	stop := showProgress(progress, func() string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprintf("%s: %s, %s", label, status, time.Since(start).Round(time.Second))
	})
	defer stop()

	downloads := 0
	list := goCommand(ctx, lab, "list", "-deps", "-trimpath", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", pkg)
	stale, err := eachLine(list, func(line string) bool {
		if strings.HasPrefix(line, "go: downloading ") {
			downloads++
			say("%d modules downloaded", downloads)
			return true
		}
		return false
	})
	if err != nil {
		return err
	}
	// Go says nothing about a package that an earlier build left in its cache, so only the others can be counted.
	missing := map[string]bool{}
	for _, path := range strings.Fields(stale) {
		missing[path] = true
	}
	total, done := len(missing), 0
	build := goCommand(ctx, lab, "build", "-v", "-trimpath", "-ldflags", ldflags, "-o", binary, pkg)
	build.Env = append(build.Env, "GOGC=400", "GOMEMLIMIT=2GiB") // compilers spend a third of their time on collecting garbage
	_, err = eachLine(build, func(line string) bool {
		if !missing[line] {
			return false
		}
		if done++; done < total {
			say("%d of %d packages", done, total)
		} else {
			say("all %d packages, now linking", total)
		}
		return true
	})
	if err != nil {
		return err
	}
	say("built")
	return nil
}

// goCommand is a go command in a directory. It ignores a go.work around the repository, which would decide versions behind go.mod's back.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets it remove its temporary files
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// output runs a command for what it prints.
func output(cmd *exec.Cmd) (string, error) {
	return eachLine(cmd, func(string) bool { return false })
}

// eachLine runs a command, shows each line of its standard error to seen, and returns its standard output. Lines that seen does not
// know are the error, should there be one.
func eachLine(cmd *exec.Cmd, seen func(line string) bool) (string, error) {
	var out bytes.Buffer
	var unknown []string
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return "", err
	}
	// A go command that outlives the lab would still write where the next lab builds.
	if err := startAsOurs(cmd); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if !seen(lines.Text()) {
			unknown = append(unknown, lines.Text())
		}
	}
	_, _ = io.Copy(io.Discard, stderr) // after a line too long to scan: or the command would wait for a reader
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w\n\t%s", strings.Join(cmd.Args[:2], " "), err, strings.Join(unknown, "\n\t"))
	}
	return out.String(), nil
}

// showProgress prints status until stop is called, and once more then: in place on a terminal, a line now and then elsewhere, so that
// neither a person nor the reader of a log wonders whether anything is happening.
func showProgress(to io.Writer, status func() string) (stop func()) {
	every, before, after := 15*time.Second, "", "\n"
	if file, ok := to.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		every, before, after = time.Second, "\r\x1b[K", ""
	}
	quit, finished := make(chan struct{}), make(chan struct{})
	fmt.Fprint(to, before, status(), after) // at once: nobody shall wonder
	go func() {
		defer close(finished)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprint(to, before, status(), after)
			case <-quit:
				fmt.Fprint(to, before, status(), "\n")
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-finished
	}
}

// lock waits for the lock of a file that other labs lock too. The kernel releases it when the lab dies.
func lock(ctx context.Context, path string, progress io.Writer) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	start, waiting := time.Now(), false
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !waiting {
			waiting = true
			defer showProgress(progress, func() string {
				return fmt.Sprintf("another lab is building Kubernetes: waited for it %s", time.Since(start).Round(time.Second))
			})()
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			file.Close()
			return nil, context.Cause(ctx)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
