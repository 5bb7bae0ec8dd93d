// Package watch is how the programs of a node hear of the cluster: of objects of one kind, by an Inbox, and of the admitted
// configuration and their Node, by Follow.
package watch

import (
	"context"
	"iter"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// An Inbox takes what a reflector hears of one kind of objects, for the loop to fetch; it keeps only what was not fetched yet.
// What is kept of an object is a T, made as soon as the object is read. T may be the object's own type.
type Inbox[T any] struct {
	Reflector *cache.Reflector
	read      func(object any) (key string, kept *T)
	ring      func()

	mu   sync.Mutex
	full bool // everything was read once
	// whole says that everything was read anew: what is not in news is gone.
	whole bool
	news  map[string]Heard[T] // since the loop last looked
}

// A Heard is what was last heard of an object.
type Heard[T any] struct {
	Object *T        // nil: it is gone
	First  time.Time // when something was heard of it
}

// A Lister is a client of one kind of objects.
type Lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// NewInbox returns an Inbox for the objects of the client that narrow selects. example is one of them. ring is called when something is
// heard. fake is client-go's fake of an API server, if it is one, which cannot stream lists.
func NewInbox[T any, L runtime.Object](fake any, client Lister[L], example any, ring func(), narrow func(*metav1.ListOptions), read func(object any) (string, *T)) *Inbox[T] {
	in := &Inbox[T]{read: read, ring: ring, news: map[string]Heard[T]{}}
	from := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			narrow(&o)
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			narrow(&o)
			return client.Watch(ctx, o)
		},
	}
	in.Reflector = cache.NewReflector(cache.ToListWatcherWithWatchListSemantics(from, fake), example, in, 0)
	return in
}

// IsFull reports whether everything was read once.
func (in *Inbox[T]) IsFull() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.full
}

// Fetch returns what was heard since the last time, of those that are known, too.
func (in *Inbox[T]) Fetch(known iter.Seq[string]) (news map[string]Heard[T]) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if news = in.news; in.whole {
		for key := range known {
			if _, there := news[key]; !there {
				news[key] = Heard[T]{nil, time.Now()}
			}
		}
	}
	in.whole, in.news = false, map[string]Heard[T]{}
	return news
}

func (in *Inbox[T]) hear(object any, gone bool) error {
	key, kept := in.keep(object)
	if gone {
		kept = nil
	}
	in.mu.Lock()
	h, there := in.news[key]
	if h.Object = kept; !there {
		h.First = time.Now()
	}
	in.news[key] = h
	in.mu.Unlock()
	in.ring()
	return nil
}

// A kept is an object on its way into an inbox, where its T was made before.
type kept[T any] struct {
	key    string
	object *T
}

func (in *Inbox[T]) keep(object any) (string, *T) {
	if k, ok := object.(kept[T]); ok {
		return k.key, k.object
	}
	return in.read(object)
}

// The rest is what a reflector wants; Transformer so that it does not collect whole objects while it reads the first time.

func (in *Inbox[T]) Add(object any) error    { return in.hear(object, false) }
func (in *Inbox[T]) Update(object any) error { return in.hear(object, false) }
func (in *Inbox[T]) Delete(object any) error { return in.hear(object, true) }
func (in *Inbox[T]) Resync() error           { return nil }

func (in *Inbox[T]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		key, made := in.keep(object)
		return kept[T]{key, made}, nil
	}
}

func (in *Inbox[T]) Replace(objects []any, _ string) error {
	news := make(map[string]Heard[T], len(objects))
	for _, object := range objects {
		key, kept := in.keep(object)
		news[key] = Heard[T]{kept, time.Now()}
	}
	in.mu.Lock()
	in.full, in.whole, in.news = true, true, news
	in.mu.Unlock()
	in.ring()
	return nil
}

// Named selects the object with a name.
func Named(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
}

// Whole keeps an object as it is, but for what nobody here reads. An annotation of a Secret may hold its values once more.
func Whole[T any](object any) (string, *T) {
	meta := object.(metav1.ObjectMetaAccessor).GetObjectMeta()
	meta.SetManagedFields(nil)
	if _, secret := object.(*corev1.Secret); secret {
		meta.SetAnnotations(nil)
	}
	return meta.GetName(), object.(*T)
}
