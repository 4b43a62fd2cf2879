// A FerretDB of its own for a run of tests: the MongoDB wire protocol over SQLite files in a directory.
//
//	ferretdb DIRECTORY [ADDRESS]
//
// It prints its URL once it listens (ADDRESS defaults to a free port of the loopback) and ends when its
// standard input does, so that it never outlives the tests that started it.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		return fmt.Errorf("usage: %s DIRECTORY [ADDRESS]", os.Args[0])
	}
	directory, err := filepath.Abs(os.Args[1])
	if err != nil {
		return err
	}
	address := "127.0.0.1:0"
	if len(os.Args) == 3 {
		address = os.Args[2]
	}
	database, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: address},
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Handler:   "sqlite",
		SQLiteURL: "file:" + directory + "/",
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	go func() { fmt.Println(database.MongoDBURI()) }()
	return database.Run(ctx)
}
