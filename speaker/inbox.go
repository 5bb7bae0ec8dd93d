package speaker

import (
	"context"
	"iter"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// An inbox takes what a reflector hears of one kind of objects, for the loop to fetch; it keeps only what was not fetched yet.
// What is kept of an object is a T, made as soon as the object is read. T may be the object's own type.
type inbox[T any] struct {
	reflector *cache.Reflector
	read      func(object any) (key string, kept *T)
	ring      func()

	mu   sync.Mutex
	full bool // everything was read once
	// whole says that everything was read anew: what is not in news is gone.
	whole bool
	news  map[string]heard[T] // since the loop last looked
}

type heard[T any] struct {
	object *T        // nil: it is gone
	first  time.Time // when something was heard of it
}

// A Lister is a client of one kind of objects.
type Lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// newInbox returns an inbox for the objects of the client that narrow selects. example is one of them, and fake as in Cluster.
func newInbox[T any, L runtime.Object](fake any, client Lister[L], example any, ring func(), narrow func(*metav1.ListOptions), read func(object any) (string, *T)) *inbox[T] {
	in := &inbox[T]{read: read, ring: ring, news: map[string]heard[T]{}}
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
	in.reflector = cache.NewReflector(cache.ToListWatcherWithWatchListSemantics(from, fake), example, in, 0)
	return in
}

// isFull reports whether everything was read once.
func (in *inbox[T]) isFull() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.full
}

// fetch returns what was heard since the last time, of those that are known, too.
func (in *inbox[T]) fetch(known iter.Seq[string]) (news map[string]heard[T]) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if news = in.news; in.whole {
		for key := range known {
			if _, there := news[key]; !there {
				news[key] = heard[T]{nil, time.Now()}
			}
		}
	}
	in.whole, in.news = false, map[string]heard[T]{}
	return news
}

func (in *inbox[T]) hear(object any, gone bool) error {
	key, kept := in.keep(object)
	if gone {
		kept = nil
	}
	in.mu.Lock()
	h, there := in.news[key]
	if h.object = kept; !there {
		h.first = time.Now()
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

func (in *inbox[T]) keep(object any) (string, *T) {
	if k, ok := object.(kept[T]); ok {
		return k.key, k.object
	}
	return in.read(object)
}

// The rest is what a reflector wants; Transformer so that it does not collect whole objects while it reads the first time.

func (in *inbox[T]) Add(object any) error    { return in.hear(object, false) }
func (in *inbox[T]) Update(object any) error { return in.hear(object, false) }
func (in *inbox[T]) Delete(object any) error { return in.hear(object, true) }
func (in *inbox[T]) Resync() error           { return nil }

func (in *inbox[T]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		key, made := in.keep(object)
		return kept[T]{key, made}, nil
	}
}

func (in *inbox[T]) Replace(objects []any, _ string) error {
	news := make(map[string]heard[T], len(objects))
	for _, object := range objects {
		key, kept := in.keep(object)
		news[key] = heard[T]{kept, time.Now()}
	}
	in.mu.Lock()
	in.full, in.whole, in.news = true, true, news
	in.mu.Unlock()
	in.ring()
	return nil
}
