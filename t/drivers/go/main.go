// How each driver of Go does what harness.go wants, as its own documentation says.

package main

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lib/pq"
)

// The version of a module, as the program was built with it.
func moduleVersion(path string) string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == path {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	return "?"
}

// A value as text that PostgreSQL reads.
func asText(value any) any {
	switch v := value.(type) {
	case nil:
		return nil
	case []byte:
		return `\x` + hex.EncodeToString(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case []int64:
		return "{" + strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", ","), "[]") + "}"
	case []string:
		quoted := []string{}
		for _, s := range v {
			quoted = append(quoted, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)+`"`)
		}
		return "{" + strings.Join(quoted, ",") + "}"
	}
	return fmt.Sprint(value)
}

// ---------------------------------------------------------------- pgx

type pgxDriver struct{}

type pgxPool struct{ *pgxpool.Pool }

type pgxTx struct{ pgx.Tx }

func collect(rows pgx.Rows, err error) ([]row, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) { return pgx.RowToMap(r) })
}

func (p pgxPool) query(sql string, args ...any) ([]row, error) {
	return collect(p.Query(background, sql, args...))
}

func (p pgxPool) transaction(work func(tx) error) error {
	return pgx.BeginFunc(background, p.Pool, func(t pgx.Tx) error { return work(pgxTx{t}) })
}

func (p pgxPool) close() { p.Close() }

func (t pgxTx) query(sql string, args ...any) ([]row, error) {
	return collect(t.Query(background, sql, args...))
}

func (t pgxTx) nested(work func(tx) error) error {
	return pgx.BeginFunc(background, t.Tx, func(inner pgx.Tx) error { return work(pgxTx{inner}) })
}

func (pgxDriver) name() string    { return "pgx" }
func (pgxDriver) version() string { return moduleVersion("github.com/jackc/pgx/v5") }

func (pgxDriver) open(bank string, size, port int) pool {
	config := must(pgxpool.ParseConfig(address(bank, "shop", port)))
	config.MaxConns = int32(size)
	// A context that is cancelled else closes the connection, and the statement goes on at the server. The
	// connection goes only when the server does not answer.
	config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Minute}
	}
	if port != 0 {
		// what a pooler does not find again is not prepared
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	return pgxPool{must(pgxpool.NewWithConfig(background, config))}
}

func (pgxDriver) state(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// It asks the server for the types, and takes only strings for text.
func (pgxDriver) text(value any) any { return asText(value) }

func (pgxDriver) cancel(p pool, waits func(), sql string, args ...any) error {
	ctx, cancel := context.WithCancel(background)
	go func() {
		waits()
		cancel()
	}()
	_, err := p.(pgxPool).Exec(ctx, sql, args...)
	return err
}

func (pgxDriver) prepared(sql string, args func(int) []any) (int, error) {
	modes := []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}
	for _, mode := range modes {
		conn, err := pgx.Connect(background, address("bank1", "shop", 0))
		if err != nil {
			return 0, err
		}
		for i := range 8 {
			if _, err = conn.Exec(background, sql, append([]any{mode}, args(i)...)...); err != nil {
				return 0, fmt.Errorf("%s: %w", mode, err)
			}
		}
		conn.Close(background)
	}
	return len(modes), nil
}

func (pgxDriver) pipeline(p pool, statements [][]any) error {
	return pgx.BeginFunc(background, p.(pgxPool).Pool, func(t pgx.Tx) error {
		batch := &pgx.Batch{}
		for _, s := range statements {
			batch.Queue(s[0].(string), s[1:]...)
		}
		return t.SendBatch(background, batch).Close()
	})
}

// The pool closes a connection that comes back in a transaction.
func (pgxDriver) giveBack(p pool, work func(tx) error) error {
	conn, err := p.(pgxPool).Acquire(background)
	if err != nil {
		return err
	}
	defer conn.Release()
	t, err := conn.Begin(background)
	if err != nil {
		return err
	}
	return work(pgxTx{t})
}

// ---------------------------------------------------------------- lib/pq

type pqDriver struct{}

type pqPool struct{ *sql.DB }

type pqTx struct{ *sql.Tx }

func scan(rows *sql.Rows, err error) ([]row, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	all := []row{}
	for rows.Next() {
		values, targets := make([]any, len(names)), make([]any, len(names))
		for i := range values {
			targets[i] = &values[i]
		}
		if err = rows.Scan(targets...); err != nil {
			return nil, err
		}
		r := row{}
		for i, name := range names {
			r[name] = values[i]
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

func (p pqPool) query(sql string, args ...any) ([]row, error) { return scan(p.Query(sql, args...)) }
func (p pqPool) close()                                       { p.Close() }
func (t pqTx) query(sql string, args ...any) ([]row, error)   { return scan(t.Query(sql, args...)) }

func (p pqPool) transaction(work func(tx) error) (err error) {
	t, err := p.Begin()
	if err != nil {
		return err
	}
	// also when it panics
	defer t.Rollback()
	if err = work(pqTx{t}); err != nil {
		return err
	}
	return t.Commit()
}

// database/sql has no savepoints
func (t pqTx) nested(work func(tx) error) error {
	if _, err := t.Exec("SAVEPOINT s"); err != nil {
		return err
	}
	if err := work(t); err != nil {
		if _, lost := t.Exec("ROLLBACK TO SAVEPOINT s"); lost != nil {
			return lost
		}
		return err
	}
	_, err := t.Exec("RELEASE SAVEPOINT s")
	return err
}

func (pqDriver) name() string    { return "lib/pq" }
func (pqDriver) version() string { return moduleVersion("github.com/lib/pq") }

func (pqDriver) open(bank string, size, port int) pool {
	where := address(bank, "shop", port)
	if port != 0 {
		// what a pooler does not find again is not prepared
		where += "&binary_parameters=yes"
	}
	db := must(sql.Open("postgres", where))
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return pqPool{db}
}

func (pqDriver) state(err error) string {
	var e *pq.Error
	if errors.As(err, &e) {
		return string(e.Code)
	}
	return ""
}

// All is sent as text; arrays by pq.Array.
func (pqDriver) text(value any) any {
	switch v := value.(type) {
	case []int64:
		return pq.Array(v)
	case []string:
		return pq.Array(v)
	case []byte:
		return asText(v)
	}
	return value
}

func (pqDriver) cancel(p pool, waits func(), sql string, args ...any) error {
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	go func() {
		waits()
		cancel()
	}()
	_, err := p.(pqPool).ExecContext(ctx, sql, args...)
	return err
}

func (pqDriver) prepared(text string, args func(int) []any) (int, error) {
	db, err := sql.Open("postgres", address("bank1", "shop", 0))
	if err != nil {
		return 0, err
	}
	defer db.Close()
	statement, err := db.Prepare(text)
	if err != nil {
		return 0, err
	}
	defer statement.Close()
	for i := range 8 {
		if _, err = statement.Exec(args(i)...); err != nil {
			return 0, err
		}
	}
	return 1, nil
}

// What is left of a transaction is rolled back when its context ends.
func (pqDriver) giveBack(p pool, work func(tx) error) error {
	ctx, cancel := context.WithCancel(background)
	t, err := p.(pqPool).BeginTx(ctx, nil)
	if err == nil {
		err = work(pqTx{t})
	}
	cancel()
	return err
}

func main() { run(pgxDriver{}, pqDriver{}) }
