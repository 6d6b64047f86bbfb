// The situations that every driver of Go goes through. An adapter (main.go) says how a driver does a thing.
// Statements have $1, $2 ...

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

type row map[string]any

// A connection in a transaction.
type tx interface {
	query(sql string, args ...any) ([]row, error)
	// A savepoint: released, or rolled back when the work returns an error.
	nested(work func(tx) error) error
}

type pool interface {
	// One statement, in a transaction of its own.
	query(sql string, args ...any) ([]row, error)
	// Commits, or rolls back when the work returns an error.
	transaction(work func(tx) error) error
	close()
}

type driver interface {
	name() string
	version() string
	open(bank string, size, port int) pool
	state(error) string
	// What the driver wants bound where the parameter is text for the server, as those of dtx_exec are.
	text(any) any
}

// What not every driver has.
type (
	canceller interface {
		// Runs the statement, and has it cancelled once waits has returned.
		cancel(p pool, waits func(), sql string, args ...any) error
	}
	preparer interface {
		// Runs the statement eight times in each mode; returns how many modes there are.
		prepared(sql string, args func(i int) []any) (int, error)
	}
	pipeliner interface {
		pipeline(p pool, statements [][]any) error
	}
	giverBack interface {
		giveBack(p pool, work func(tx) error) error
	}
)

const (
	debit   = "UPDATE account_info SET account_balance = account_balance - $1 WHERE account_no = $2"
	credit  = "UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2"
	atBank2 = "SELECT dtx_exec($1, $2, $3, $4) AS n"
)

var (
	background = context.Background()
	errUndone  = errors.New("undone")
	errLacks   = errors.New("the driver has no such thing")
	banks      = []string{"bank1", "bank2"}
)

func address(bank, user string, port int) string {
	if port == 0 {
		port = number(os.Getenv(map[string]string{"bank1": "DTX_PORT1", "bank2": "DTX_PORT2"}[bank]))
	}
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=disable", user, os.Getenv("DTX_PASSWORD"), port, bank)
}

func number(text string) (n int) {
	fmt.Sscan(text, &n)
	return
}

// A situation fails by panic.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func equal(got, expected any) {
	if !reflect.DeepEqual(got, expected) {
		panic(fmt.Errorf("%v, not %v", got, expected))
	}
}

// ---------------------------------------------------------------- what the tests know

var wardens = map[string]*pgx.Conn{}

// The first value of a superuser's statement, beside the driver's own.
func warden(bank, sql string, args ...any) any {
	if wardens[bank] == nil {
		wardens[bank] = must(pgx.Connect(background, address(bank, "warden", 0)))
	}
	rows := must(wardens[bank].Query(background, sql, args...))
	defer rows.Close()
	var first any
	for rows.Next() {
		first = must(rows.Values())[0]
	}
	check(rows.Err())
	return first
}

func until(what string, condition func() bool) {
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			panic(errors.New("waited in vain: " + what))
		}
	}
}

var accounts = os.Getpid() * 1000

// An account of that number at both banks, with 1000.
func account(d driver) string {
	accounts++
	no := fmt.Sprintf("%s %d", d.name(), accounts)
	for _, bank := range banks {
		warden(bank, "INSERT INTO account_info VALUES ($1, 'somebody', 1000)", no)
	}
	return no
}

func settled() {
	for _, bank := range banks {
		until("everything is settled", func() bool {
			return warden(bank, "SELECT (SELECT count(*) FROM dtx.branch) + (SELECT count(*) FROM dtx.joined_branch WHERE state = 'd')") == int64(0)
		})
	}
}

func balances(no string, expected ...int64) {
	settled()
	found := []int64{}
	for _, bank := range banks {
		found = append(found, warden(bank, "SELECT account_balance::bigint FROM account_info WHERE account_no = $1", no).(int64))
	}
	equal(found, expected)
}

// Somebody who has the row at bank2, without dtx; returns what lets it go.
func blocker(no string) func() {
	conn := must(pgx.Connect(background, address("bank2", "warden", 0)))
	must(conn.Exec(background, "BEGIN"))
	must(conn.Exec(background, "UPDATE account_info SET account_name = account_name WHERE account_no = $1", no))
	return func() { conn.Close(background) }
}

func waitsAtPeer() {
	until("the call waits at the peer", func() bool {
		return warden("bank2", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'") != int64(0)
	})
}

func fails(d driver, state string, err error) {
	if err == nil {
		panic(fmt.Errorf("no error, but %s was expected", state))
	}
	if d.state(err) != state {
		panic(fmt.Errorf("SQLSTATE %s, not %s: %w", d.state(err), state, err))
	}
}

// What an application does: the transaction once more after an error that says so.
func retried(d driver, p pool, work func(tx) error, between func()) int {
	for attempt := 1; ; attempt++ {
		err := p.transaction(work)
		if err == nil {
			return attempt
		}
		switch d.state(err) {
		case "40001", "40P01", "55P03", "DX006":
		default:
			panic(err)
		}
		if attempt == 10 {
			panic(err)
		}
		between()
		time.Sleep(time.Duration(rand.Int64N(int64(10*time.Millisecond) << attempt)))
	}
}

func transfer(d driver, no string, amount int) func(tx) error {
	return func(t tx) error {
		if _, err := t.query(debit, amount, no); err != nil {
			return err
		}
		rows, err := t.query(atBank2, "bank2", credit, d.text(amount), no)
		if err == nil && fmt.Sprint(rows) != "[map[n:1]]" {
			err = fmt.Errorf("answered by %v", rows)
		}
		return err
	}
}

func rolledBack(p pool, work func(tx) error) {
	err := p.transaction(func(t tx) error {
		if err := work(t); err != nil {
			return err
		}
		return errUndone
	})
	if !errors.Is(err, errUndone) {
		panic(err)
	}
}

// ---------------------------------------------------------------- situations

func bind(d driver, p pool) {
	no := account(d)
	check(p.transaction(transfer(d, no, 100)))
	// outside of a block, too
	must(p.query(atBank2, "bank2", credit, d.text(1), no))
	balances(no, 900, 1101)
}

func types(d driver, p pool) {
	insert := "INSERT INTO kinds VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
	call := "SELECT dtx_exec($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
	noon := time.Date(2026, 2, 28, 12, 30, 0, 0, time.UTC)
	accounts++
	id := accounts
	row := []any{id, "it's 中文 $1 \\", 42, int64(1152921504606846977), "12345678901234567890.12", 1.5, true, "2026-02-28", noon,
		"6f3f0ab1-d2c8-e957-0000-0000000000ff", `{"a": [1, "x"]}`, []int64{1, 2, 3}, []string{"a,b", `c"d`}, []byte{0, 255, 10}}
	all := func(row []any) []any {
		args := []any{"bank2", insert}
		for _, value := range row {
			args = append(args, d.text(value))
		}
		return args
	}
	must(p.query(call, all(row)...))
	nulls := make([]any, 14)
	nulls[0] = id + 1_000_000_000_000
	must(p.query(call, all(nulls)...))
	read := "SELECT concat_ws('|', t, i, b, n, f, o, d, z AT TIME ZONE 'UTC', u, j, a, x, y) FROM kinds WHERE id = $1"
	equal(warden("bank2", read, id), `it's 中文 $1 \|42|1152921504606846977|12345678901234567890.12|1.5|t|2026-02-28|2026-02-28 12:30:00|`+
		`6f3f0ab1-d2c8-e957-0000-0000000000ff|{"a": [1, "x"]}|{1,2,3}|{"a,b","c\"d"}|\x00ff0a`)
	equal(warden("bank2", read, nulls[0]), "")
}

func rows(d driver, p pool) {
	no := account(d)
	got := must(p.query("SELECT * FROM dtx_query($1, $2, $3, $4) AS t(no text, balance bigint, today date)", "bank2",
		"SELECT account_no, account_balance::bigint, date '2026-02-28' FROM account_info WHERE account_no = $1 AND account_balance > $2", no, d.text(5)))
	equal(got[0]["no"], no)
	equal(got[0]["balance"], int64(1000))
	equal(got[0]["today"].(time.Time).Format("2006-01-02"), "2026-02-28")
}

func rollback(d driver, p pool) {
	no := account(d)
	rolledBack(p, transfer(d, no, 100))
	balances(no, 1000, 1000)
}

func errorOfPeer(d driver, p pool) {
	no := account(d)
	fails(d, "23514", p.transaction(func(t tx) error {
		_, err := t.query(atBank2, "bank2", debit, d.text(5000), no)
		return err
	}))
	_, err := p.query(atBank2, "bank2", "UPDATE no_such_table SET a = $1 WHERE b = $2", d.text(1), "2")
	fails(d, "42P01", err)
	check(p.transaction(transfer(d, no, 100)))
	balances(no, 900, 1100)
}

func retry(d driver, p pool) {
	no := account(d)
	other := must(pgx.Connect(background, address("bank1", "shop", 0)))
	must(other.Exec(background, "BEGIN"))
	must(other.Exec(background, atBank2, "bank2", credit, "7", no))
	attempts := retried(d, p, func(t tx) error {
		if _, err := t.query("SELECT set_config('dtx.lock_timeout', '50ms', true)"); err != nil {
			return err
		}
		return transfer(d, no, 100)(t)
	}, func() {
		// the first time; then there is nothing to commit, which is a warning
		must(other.Exec(background, "COMMIT"))
		settled()
	})
	other.Close(background)
	equal(attempts > 1, true)
	balances(no, 900, 1107)
}

func again(d driver, p pool) {
	no := account(d)
	for range 10 {
		rolledBack(p, transfer(d, no, 100))
		check(p.transaction(transfer(d, no, 1)))
	}
	balances(no, 990, 1010)
}

func savepoint(d driver, p pool) {
	no := account(d)
	check(p.transaction(func(t tx) error {
		check(transfer(d, no, 1)(t))
		err := t.nested(func(inner tx) error {
			check(transfer(d, no, 100)(inner))
			return errUndone
		})
		equal(errors.Is(err, errUndone), true)
		fails(d, "23514", t.nested(func(inner tx) error {
			_, err := inner.query(atBank2, "bank2", debit, d.text(5000), no)
			return err
		}))
		return t.nested(transfer(d, no, 10))
	}))
	balances(no, 989, 1011)
}

func autosave(d driver, p pool) {
	no := account(d)
	xid := must(p.query("SELECT dtx_open() AS xid"))[0]["xid"]
	check(p.transaction(func(t tx) error {
		return t.nested(func(inner tx) error {
			if _, err := inner.query("SELECT dtx_join($1)", xid); err != nil {
				return err
			}
			_, err := inner.query(debit, 100, no)
			return err
		})
	}))
	must(p.query("SELECT dtx_rollback($1)", xid))
	balances(no, 1000, 1000)
}

func cancel(d driver, p pool) {
	c, ok := d.(canceller)
	if !ok {
		panic(errLacks)
	}
	no := account(d)
	release := blocker(no)
	defer release()
	fails(d, "57014", c.cancel(p, waitsAtPeer, atBank2, "bank2", credit, d.text(100), no))
	release()
	retried(d, p, transfer(d, no, 1), func() {})
	balances(no, 999, 1001)
}

func timeout(d driver, p pool) {
	no := account(d)
	release := blocker(no)
	defer release()
	fails(d, "57014", p.transaction(func(t tx) error {
		if _, err := t.query("SELECT set_config('statement_timeout', '300', true)"); err != nil {
			return err
		}
		_, err := t.query(atBank2, "bank2", credit, d.text(100), no)
		return err
	}))
	release()
	retried(d, p, transfer(d, no, 1), func() {})
	balances(no, 999, 1001)
}

func backToPool(d driver, _ pool) {
	g, ok := d.(giverBack)
	if !ok {
		panic(errLacks)
	}
	p := d.open("bank1", 1, 0)
	defer p.close()
	no := account(d)
	check(g.giveBack(p, transfer(d, no, 100)))
	balances(no, 1000, 1000)
	check(p.transaction(transfer(d, no, 1)))
	balances(no, 999, 1001)
}

func prepared(d driver, _ pool) {
	m, ok := d.(preparer)
	if !ok {
		panic(errLacks)
	}
	no := account(d)
	modes := must(m.prepared(atBank2, func(i int) []any { return []any{"bank2", credit, d.text(1), no} }))
	balances(no, 1000, int64(1000+8*modes))
}

func pipeline(d driver, p pool) {
	l, ok := d.(pipeliner)
	if !ok {
		panic(errLacks)
	}
	no := account(d)
	one := []any{atBank2, "bank2", credit, d.text(1), no}
	check(l.pipeline(p, [][]any{{debit, 3, no}, one, one, one}))
	balances(no, 997, 1003)
}

var inBraces = regexp.MustCompile(`^\{.*\}$`)

func views(d driver, p pool) {
	no := account(d)
	names := strings.Split(warden("bank1", "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'v' AND relname ~ '^dtx_'").(string), " ")
	equal(len(names) > 10, true)
	other := d.open("bank2", 1, 0)
	defer other.close()
	check(p.transaction(func(t tx) error {
		check(transfer(d, no, 1)(t))
		for _, one := range []interface {
			query(string, ...any) ([]row, error)
		}{t, other} {
			for _, name := range names {
				for _, r := range must(one.query("SELECT * FROM " + name)) {
					for column, value := range r {
						text, ok := value.(string)
						if bytes, is := value.([]byte); is {
							text, ok = string(bytes), true
						}
						if ok && inBraces.MatchString(text) && !json.Valid([]byte(text)) && d.name() != "lib/pq" {
							panic(fmt.Errorf("%s.%s is %v", name, column, text))
						}
					}
				}
			}
		}
		return nil
	}))
	balances(no, 999, 1001)
}

func unavailable(d driver, _ pool) {
	p := d.open("bank1", 1, 0)
	defer p.close()
	no := account(d)
	before := must(p.query("SELECT pg_backend_pid() AS pid"))[0]["pid"]
	fails(d, "DX006", p.transaction(func(t tx) error {
		_, err := t.query(atBank2, "nowhere", credit, d.text(1), no)
		return err
	}))
	fails(d, "DX006", p.transaction(func(t tx) error {
		check(transfer(d, no, 100)(t))
		_, err := t.query(atBank2, "bank2", "UPDATE account_info SET account_name = pg_terminate_backend(pg_backend_pid())::text || $1::text WHERE account_no = $2", d.text(1), no)
		return err
	}))
	retried(d, p, transfer(d, no, 1), func() {})
	equal(must(p.query("SELECT pg_backend_pid() AS pid"))[0]["pid"], before)
	balances(no, 999, 1001)
}

func pooler(d driver, _ pool) {
	port := number(os.Getenv("DTX_POOLER"))
	if port == 0 {
		panic(errLacks)
	}
	p := d.open("bank1", 4, port)
	defer p.close()
	numbers := []string{account(d), account(d), account(d), account(d)}
	together := func(work func(no string)) {
		var group sync.WaitGroup
		failed := make(chan any, len(numbers))
		for _, no := range numbers {
			group.Add(1)
			go func() {
				defer group.Done()
				defer func() {
					if r := recover(); r != nil {
						failed <- r
					}
				}()
				work(no)
			}()
		}
		group.Wait()
		select {
		case r := <-failed:
			panic(r)
		default:
		}
	}
	for range 3 {
		together(func(no string) { check(p.transaction(transfer(d, no, 1))) })
		together(func(no string) { rolledBack(p, transfer(d, no, 100)) })
		settled()
	}
	for _, no := range numbers {
		balances(no, 997, 1003)
	}
}

// A service beside bank2 that joins by the header of a request, and its client at bank1.
func shared(d driver, p pool) {
	service := d.open("bank2", 2, 0)
	defer service.close()
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var joined any
		err := service.transaction(func(t tx) error {
			rows, err := t.query("SELECT dtx_join($1, $2) AS joined", r.Header.Get("dtx-xid"), "credit")
			if err != nil {
				return err
			}
			if joined = rows[0]["joined"]; joined == true {
				_, err = t.query(credit, 100, r.URL.Path[1:])
			}
			return err
		})
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		fmt.Fprint(w, joined)
	})}
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	go server.Serve(listener)
	defer server.Close()
	for _, end := range []string{"dtx_commit", "dtx_rollback"} {
		no := account(d)
		xid := must(p.query("SELECT dtx_open(timeout => '1 minute') AS xid"))[0]["xid"]
		check(p.transaction(func(t tx) error {
			if _, err := t.query("SELECT dtx_join($1)", xid); err != nil {
				return err
			}
			_, err := t.query(debit, 100, no)
			return err
		}))
		// a request that is sent twice is carried out once
		for _, expected := range []string{"true", "false"} {
			request := must(http.NewRequest("POST", fmt.Sprintf("http://%s/%s", listener.Addr(), url.PathEscape(no)), nil))
			request.Header.Set("dtx-xid", fmt.Sprint(xid))
			answer := must(http.DefaultClient.Do(request))
			equal(string(must(io.ReadAll(answer.Body))), expected)
			answer.Body.Close()
		}
		must(p.query("SELECT "+end+"($1)", xid))
		if end == "dtx_commit" {
			balances(no, 900, 1100)
		} else {
			balances(no, 1000, 1000)
		}
	}
}

func messages(d driver, p pool) {
	name := regexp.MustCompile("[^a-z0-9]").ReplaceAllString(strings.ToLower(d.name()), "_")
	must(p.query("SELECT dtx_subscribe($1, name => $2)", name+".*", name))
	publish := func(t tx, n int) {
		must(t.query("SELECT dtx_publish($1, $2)", name+".paid", fmt.Sprintf(`{"n": %d}`, n)))
	}
	check(p.transaction(func(t tx) error {
		publish(t, 1)
		publish(t, 2)
		return nil
	}))
	rolledBack(p, func(t tx) error {
		publish(t, 3)
		return nil
	})
	got := []string{}
	until("the messages come", func() bool {
		check(p.transaction(func(t tx) error {
			for _, r := range must(t.query("SELECT id, payload ->> 'n' AS n FROM dtx_receive($1, max => 10, wait => '10s')", name)) {
				got = append(got, fmt.Sprint(r["n"]))
				must(t.query("SELECT dtx_ack($1, ARRAY[$2::bigint])", name, r["id"]))
			}
			return nil
		}))
		return len(got) >= 2
	})
	equal(got, []string{"1", "2"})
	must(p.query("SELECT dtx_unsubscribe($1)", name))
}

var situations = []struct {
	name string
	work func(driver, pool)
}{
	{"bind", bind}, {"types", types}, {"rows", rows}, {"rollback", rollback}, {"error", errorOfPeer}, {"retry", retry}, {"again", again},
	{"savepoint", savepoint}, {"autosave", autosave}, {"cancel", cancel}, {"timeout", timeout}, {"pool", backToPool}, {"prepared", prepared},
	{"pipeline", pipeline}, {"views", views}, {"unavailable", unavailable}, {"pooler", pooler}, {"shared", shared}, {"messages", messages},
}

func run(drivers ...driver) {
	only := os.Getenv("DTX_ONLY")
	for _, d := range drivers {
		p := d.open("bank1", 4, 0)
		for _, s := range situations {
			if only != "" && !strings.Contains(" "+only+" ", " "+s.name+" ") {
				continue
			}
			line := map[string]any{"driver": d.name(), "version": d.version(), "situation": s.name, "passed": true}
			begun := time.Now()
			func() {
				defer func() {
					switch r := recover(); r {
					case nil:
					case errLacks:
						line["passed"] = nil
					default:
						line["passed"] = false
						line["note"] = fmt.Sprint(r)
					}
				}()
				s.work(d, p)
			}()
			line["seconds"] = time.Since(begun).Seconds()
			fmt.Println(string(must(json.Marshal(line))))
		}
		p.close()
	}
}
