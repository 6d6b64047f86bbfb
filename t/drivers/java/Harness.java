import com.sun.net.httpserver.HttpServer;
import java.math.BigDecimal;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Timestamp;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/**
 * The situations that every driver of Java goes through. An adapter (Main.java) says how a driver does a thing.
 * Statements have ?, but those that dtx_exec carries $1, $2 ...
 */
class Harness {
	interface Work<T, R> {
		R with(T t) throws Exception;
	}

	/** A transaction. */
	interface Tx {
		List<Map<String, Object>> query(String sql, Object... values) throws Exception;

		/** A savepoint: released, or rolled back when the work throws. */
		<R> R nested(Work<Tx, R> work) throws Exception;
	}

	interface Pool extends AutoCloseable {
		/** Commits, or rolls back when the work throws. */
		<R> R transaction(Work<Tx, R> work) throws Exception;

		/** DISCARD ALL on a connection outside of a transaction. */
		void discardAll() throws Exception;

		void close();

		default List<Map<String, Object>> query(String sql, Object... values) throws Exception {
			return transaction(tx -> tx.query(sql, values));
		}
	}

	interface Driver {
		String name();

		String version();

		Pool open(String bank, int size, int port) throws Exception;

		/** Whether a transaction can go on after an error, once its savepoint was rolled back. */
		default boolean goesOnAfterError() {
			return true;
		}
	}

	/** What not every driver has. */
	interface Cancels {
		void cancel(Pool pool, Waits waits, String sql, Object... values) throws Exception;
	}

	interface Waits {
		void forPeer() throws Exception;
	}

	interface GivesBack {
		void giveBack(Pool pool, Work<Tx, Void> work) throws Exception;
	}

	interface Prepares {
		/** The work eight times in each mode, with connections to bank1 of that mode; returns how many modes there are. */
		int prepared(Work<Tx, Void> work) throws Exception;
	}

	interface Batches {
		void batch(Pool pool, String no) throws Exception;
	}

	static final String DEBIT = "UPDATE account_info SET account_balance = account_balance - ? WHERE account_no = ?";
	static final String CREDIT = "UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2";
	static final String TOO_MUCH = "UPDATE account_info SET account_balance = account_balance - $1 WHERE account_no = $2";
	static final String AT_BANK2 = "SELECT dtx_exec(?, ?, ?, ?) AS n";

	static final List<String> BANKS = List.of("bank1", "bank2");
	static final String PASSWORD = System.getenv("DTX_PASSWORD");

	static String url(String bank, int port, String options) {
		return "jdbc:postgresql://127.0.0.1:" + (port != 0 ? port : System.getenv(bank.equals("bank1") ? "DTX_PORT1" : "DTX_PORT2")) + "/" + bank + options;
	}

	// ---------------------------------------------------------------- what the tests know

	static final Map<String, Connection> wardens = new LinkedHashMap<>();

	/** The first value of a superuser's statement, beside the driver's own. */
	static synchronized Object warden(String bank, String sql, Object... values) throws SQLException {
		Connection connection = wardens.get(bank);
		if (connection == null)
			wardens.put(bank, connection = DriverManager.getConnection(url(bank, 0, ""), "warden", PASSWORD));
		try (PreparedStatement statement = connection.prepareStatement(sql)) {
			for (int i = 0; i < values.length; i++)
				statement.setObject(i + 1, values[i]);
			if (!statement.execute())
				return null;
			ResultSet rows = statement.getResultSet();
			return rows.next() ? rows.getObject(1) : null;
		}
	}

	static void until(String what, Callable<Boolean> condition) throws Exception {
		long deadline = System.nanoTime() + 60_000_000_000L;
		while (!condition.call()) {
			if (System.nanoTime() > deadline)
				throw new AssertionError("waited in vain: " + what);
			Thread.sleep(10);
		}
	}

	static int accounts = (int) ProcessHandle.current().pid() * 1000;

	/** An account of that number at both banks, with 1000. */
	static String account(Driver driver) throws SQLException {
		String no = driver.name() + " " + ++accounts;
		for (String bank : BANKS)
			warden(bank, "INSERT INTO account_info VALUES (?, 'somebody', 1000)", no);
		return no;
	}

	static void settled() throws Exception {
		for (String bank : BANKS)
			until("everything is settled", () -> warden(bank,
				"SELECT (SELECT count(*) FROM dtx.branch) + (SELECT count(*) FROM dtx.joined_branch WHERE state = 'd')").equals(0L));
	}

	static void balances(String no, long... expected) throws Exception {
		settled();
		long[] found = new long[2];
		for (int i = 0; i < 2; i++)
			found[i] = (Long) warden(BANKS.get(i), "SELECT account_balance::bigint FROM account_info WHERE account_no = ?", no);
		same(Arrays.toString(found), Arrays.toString(expected));
	}

	/** Somebody who has the row at bank2, without dtx; closing lets it go. */
	static Connection blocker(String no) throws SQLException {
		Connection connection = DriverManager.getConnection(url("bank2", 0, ""), "warden", PASSWORD);
		connection.setAutoCommit(false);
		connection.createStatement().execute("UPDATE account_info SET account_name = account_name WHERE account_no = '" + no + "'");
		return connection;
	}

	static void waitsAtPeer() throws Exception {
		until("the call waits at the peer", () -> !warden("bank2",
			"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'").equals(0L));
	}

	static void same(Object got, Object expected) {
		if (!expected.equals(got))
			throw new AssertionError(got + ", not " + expected);
	}

	/** The SQLSTATE, under whatever wraps the driver's exception. */
	static String state(Throwable error) {
		for (; error != null; error = error.getCause())
			if (error instanceof SQLException e && e.getSQLState() != null)
				return e.getSQLState();
		return "none";
	}

	interface Fallible {
		void run() throws Exception;
	}

	static void fails(String state, Fallible work) {
		try {
			work.run();
		} catch (Exception error) {
			if (!state.equals(state(error)))
				throw new AssertionError("SQLSTATE " + state(error) + ", not " + state + ": " + error.getMessage(), error);
			return;
		}
		throw new AssertionError("no error, but " + state + " was expected");
	}

	/** What an application does: the transaction once more after an error that says so. */
	static int retried(Pool pool, Work<Tx, Void> work, Fallible between) throws Exception {
		for (int attempt = 1;; attempt++) {
			try {
				pool.transaction(work);
				return attempt;
			} catch (Exception error) {
				if (attempt == 10 || !List.of("40001", "40P01", "55P03", "DX006").contains(state(error)))
					throw error;
				between.run();
				Thread.sleep((long) (Math.random() * (10 << attempt)));
			}
		}
	}

	static Work<Tx, Void> transfer(String no, int amount) {
		return tx -> {
			tx.query(DEBIT, amount, no);
			same(tx.query(AT_BANK2, "bank2", CREDIT, amount, no), List.of(Map.of("n", 1L)));
			return null;
		};
	}

	static class Undone extends RuntimeException {
	}

	static void rolledBack(Pool pool, Work<Tx, Void> work) throws Exception {
		try {
			pool.transaction(tx -> {
				work.with(tx);
				throw new Undone();
			});
		} catch (Undone expected) {
			return;
		}
		throw new AssertionError("no error");
	}

	static class Lacks extends RuntimeException {
	}

	static <T> T able(Driver driver, Class<T> kind) {
		if (!kind.isInstance(driver))
			throw new Lacks();
		return kind.cast(driver);
	}

	// ---------------------------------------------------------------- situations

	static void bind(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		pool.transaction(transfer(no, 100));
		pool.query(AT_BANK2, "bank2", CREDIT, new BigDecimal("1.0"), no);
		pool.query(AT_BANK2, "bank2", CREDIT, "1", no);
		balances(no, 900, 1102);
	}

	static void types(Driver driver, Pool pool) throws Exception {
		String insert = "INSERT INTO kinds VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
		String call = "SELECT dtx_exec(?, ?" + ", ?".repeat(14) + ") AS n";
		long id = ++accounts;
		List<Object> values = new ArrayList<>(Arrays.asList("bank2", insert, id, "it's 中文 $1 \\", 42, 1152921504606846977L,
			new BigDecimal("12345678901234567890.12"), 1.5, true, LocalDate.of(2026, 2, 28),
			OffsetDateTime.of(2026, 2, 28, 12, 30, 0, 0, ZoneOffset.UTC), UUID.fromString("6f3f0ab1-d2c8-e957-0000-0000000000ff"),
			"{\"a\": [1, \"x\"]}", new Integer[] { 1, 2, 3 }, new String[] { "a,b", "c\"d" }, new byte[] { 0, (byte) 255, 10 }));
		pool.query(call, values.toArray());
		// the older classes
		values.set(2, id + 1_000_000_000_000L);
		values.set(9, Date.valueOf("2026-02-28"));
		values.set(10, Timestamp.from(OffsetDateTime.of(2026, 2, 28, 12, 30, 0, 0, ZoneOffset.UTC).toInstant()));
		pool.query(call, values.toArray());
		Object[] nulls = new Object[16];
		nulls[0] = "bank2";
		nulls[1] = insert;
		nulls[2] = id + 2_000_000_000_000L;
		pool.query(call, nulls);
		String read = "SELECT concat_ws('|', t, i, b, n, f, o, d, z AT TIME ZONE 'UTC', u, j, a, x, y) FROM kinds WHERE id = ?";
		String all = "it's 中文 $1 \\|42|1152921504606846977|12345678901234567890.12|1.5|t|2026-02-28|2026-02-28 12:30:00|"
			+ "6f3f0ab1-d2c8-e957-0000-0000000000ff|{\"a\": [1, \"x\"]}|{1,2,3}|{\"a,b\",\"c\\\"d\"}|\\x00ff0a";
		same(warden("bank2", read, id), all);
		same(warden("bank2", read, values.get(2)), all);
		same(warden("bank2", read, nulls[2]), "");
	}

	static void rows(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		Map<String, Object> row = pool.query("SELECT * FROM dtx_query(?, ?, ?, ?) AS t(no text, balance numeric, today date)", "bank2",
			"SELECT account_no, account_balance, date '2026-02-28' FROM account_info WHERE account_no = $1 AND account_balance > $2", no, 5).get(0);
		same(row.get("no"), no);
		same(row.get("balance"), new BigDecimal(1000));
		same(row.get("today").toString(), "2026-02-28");
	}

	static void rollback(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		rolledBack(pool, transfer(no, 100));
		balances(no, 1000, 1000);
	}

	static void error(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		fails("23514", () -> pool.query(AT_BANK2, "bank2", TOO_MUCH, 5000, no));
		fails("42P01", () -> pool.query(AT_BANK2, "bank2", "UPDATE no_such_table SET a = $1 WHERE b = $2", 1, "2"));
		pool.transaction(transfer(no, 100));
		balances(no, 900, 1100);
	}

	static void retry(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		try (Connection other = DriverManager.getConnection(url("bank1", 0, ""), "shop", PASSWORD)) {
			other.setAutoCommit(false);
			other.createStatement().execute("SELECT dtx_exec('bank2', 'UPDATE account_info SET account_balance = account_balance + 7 WHERE account_no = ''" + no + "''')");
			int attempts = retried(pool, tx -> {
				tx.query("SELECT set_config('dtx.lock_timeout', '50ms', true)");
				return transfer(no, 100).with(tx);
			}, () -> {
				// the first time; then there is nothing to commit
				other.commit();
				settled();
			});
			same(attempts > 1, true);
		}
		balances(no, 900, 1107);
	}

	static void again(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		for (int i = 0; i < 10; i++) {
			rolledBack(pool, transfer(no, 100));
			pool.transaction(transfer(no, 1));
		}
		balances(no, 990, 1010);
	}

	static void savepoint(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		pool.transaction(tx -> {
			transfer(no, 1).with(tx);
			try {
				tx.nested(inner -> {
					transfer(no, 100).with(inner);
					throw new Undone();
				});
			} catch (Undone expected) {
				// rolled back
			}
			if (driver.goesOnAfterError())
				fails("23514", () -> tx.nested(inner -> inner.query(AT_BANK2, "bank2", TOO_MUCH, 5000, no)));
			return tx.nested(transfer(no, 10));
		});
		balances(no, 989, 1011);
	}

	static void autosave(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		Object xid = pool.query("SELECT dtx_open() AS xid").get(0).get("xid");
		pool.transaction(tx -> tx.nested(inner -> {
			inner.query("SELECT dtx_join(?)", xid);
			return inner.query(DEBIT, 100, no);
		}));
		pool.query("SELECT dtx_rollback(?)", xid);
		balances(no, 1000, 1000);
	}

	static void cancel(Driver driver, Pool pool) throws Exception {
		Cancels cancels = able(driver, Cancels.class);
		String no = account(driver);
		try (Connection blocker = blocker(no)) {
			fails("57014", () -> cancels.cancel(pool, Harness::waitsAtPeer, AT_BANK2, "bank2", CREDIT, 100, no));
		}
		retried(pool, transfer(no, 1), () -> {
		});
		balances(no, 999, 1001);
	}

	static void timeout(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		try (Connection blocker = blocker(no)) {
			fails("57014", () -> pool.transaction(tx -> {
				tx.query("SELECT set_config('statement_timeout', '300', true)");
				return tx.query(AT_BANK2, "bank2", CREDIT, 100, no);
			}));
		}
		retried(pool, transfer(no, 1), () -> {
		});
		balances(no, 999, 1001);
	}

	static void pool(Driver driver, Pool unused) throws Exception {
		GivesBack gives = able(driver, GivesBack.class);
		String no = account(driver);
		try (Pool pool = driver.open("bank1", 1, 0)) {
			gives.giveBack(pool, transfer(no, 100));
			balances(no, 1000, 1000);
			pool.transaction(transfer(no, 1));
			balances(no, 999, 1001);
		}
	}

	static void discard(Driver driver, Pool unused) throws Exception {
		String no = account(driver);
		try (Pool pool = driver.open("bank1", 1, 0)) {
			for (int i = 0; i < 3; i++) {
				pool.transaction(transfer(no, 1));
				pool.discardAll();
			}
		}
		balances(no, 997, 1003);
	}

	static void prepared(Driver driver, Pool unused) throws Exception {
		String no = account(driver);
		int modes = able(driver, Prepares.class).prepared(transfer(no, 1));
		balances(no, 1000 - 8 * modes, 1000 + 8 * modes);
	}

	static void pipeline(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		able(driver, Batches.class).batch(pool, no);
		balances(no, 1000, 1003);
	}

	static void views(Driver driver, Pool pool) throws Exception {
		String no = account(driver);
		String[] names = ((String) warden("bank1", "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'v' AND relname ~ '^dtx_'")).split(" ");
		try (Pool other = driver.open("bank2", 1, 0)) {
			pool.transaction(tx -> {
				transfer(no, 1).with(tx);
				for (String name : names) {
					tx.query("SELECT * FROM " + name);
					other.query("SELECT * FROM " + name);
				}
				return null;
			});
		}
		balances(no, 999, 1001);
	}

	static void unavailable(Driver driver, Pool unused) throws Exception {
		String no = account(driver);
		try (Pool pool = driver.open("bank1", 1, 0)) {
			Object before = pool.query("SELECT pg_backend_pid() AS pid").get(0).get("pid");
			fails("DX006", () -> pool.query(AT_BANK2, "nowhere", CREDIT, 1, no));
			fails("DX006", () -> pool.transaction(tx -> {
				transfer(no, 100).with(tx);
				return tx.query(AT_BANK2, "bank2", "UPDATE account_info SET account_name = pg_terminate_backend(pg_backend_pid())::text || $1::text WHERE account_no = $2", 1, no);
			}));
			retried(pool, transfer(no, 1), () -> {
			});
			same(pool.query("SELECT pg_backend_pid() AS pid").get(0).get("pid"), before);
		}
		balances(no, 999, 1001);
	}

	static void pooler(Driver driver, Pool unused) throws Exception {
		String port = System.getenv("DTX_POOLER");
		if (port == null || port.isEmpty())
			throw new Lacks();
		List<String> numbers = List.of(account(driver), account(driver), account(driver), account(driver));
		ExecutorService threads = Executors.newFixedThreadPool(4);
		try (Pool pool = driver.open("bank1", 4, Integer.parseInt(port))) {
			for (int round = 0; round < 3; round++) {
				for (boolean commit : new boolean[] { true, false }) {
					List<Future<Void>> all = new ArrayList<>();
					for (String no : numbers)
						all.add(threads.submit(() -> {
							if (commit)
								pool.transaction(transfer(no, 1));
							else
								rolledBack(pool, transfer(no, 100));
							return null;
						}));
					for (Future<Void> one : all)
						one.get();
				}
				settled();
			}
		} finally {
			threads.shutdown();
		}
		for (String no : numbers)
			balances(no, 997, 1003);
	}

	/** A service beside bank2 that joins by the header of a request, and its client at bank1. */
	static void shared(Driver driver, Pool pool) throws Exception {
		HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
		try (Pool service = driver.open("bank2", 2, 0)) {
			server.createContext("/", exchange -> {
				String no = exchange.getRequestURI().getPath().substring(1);
				String answer;
				try {
					answer = service.transaction(tx -> {
						Object joined = tx.query("SELECT dtx_join(?, ?) AS joined", exchange.getRequestHeaders().getFirst("dtx-xid"), "credit").get(0).get("joined");
						if (Boolean.TRUE.equals(joined))
							tx.query(DEBIT, -100, no);
						return String.valueOf(joined);
					});
				} catch (Exception error) {
					answer = error.toString();
				}
				byte[] bytes = answer.getBytes(StandardCharsets.UTF_8);
				exchange.sendResponseHeaders(200, bytes.length);
				exchange.getResponseBody().write(bytes);
				exchange.close();
			});
			server.start();
			HttpClient client = HttpClient.newHttpClient();
			for (String end : List.of("dtx_commit", "dtx_rollback")) {
				String no = account(driver);
				String xid = (String) pool.query("SELECT dtx_open(timeout => '1 minute') AS xid").get(0).get("xid");
				pool.transaction(tx -> {
					tx.query("SELECT dtx_join(?)", xid);
					return tx.query(DEBIT, 100, no);
				});
				// a request that is sent twice is carried out once
				for (String expected : List.of("true", "false")) {
					URI uri = URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/" + URLEncoder.encode(no, StandardCharsets.UTF_8).replace("+", "%20"));
					HttpRequest request = HttpRequest.newBuilder(uri).header("dtx-xid", xid).POST(HttpRequest.BodyPublishers.noBody()).build();
					same(client.send(request, HttpResponse.BodyHandlers.ofString()).body(), expected);
				}
				pool.query("SELECT " + end + "(?)", xid);
				if (end.equals("dtx_commit"))
					balances(no, 900, 1100);
				else
					balances(no, 1000, 1000);
			}
		} finally {
			server.stop(0);
		}
	}

	static void messages(Driver driver, Pool pool) throws Exception {
		String name = driver.name().toLowerCase().replaceAll("[^a-z0-9]", "_");
		pool.query("SELECT dtx_subscribe(?, name => ?)", name + ".*", name);
		Work<Tx, Void> publish = tx -> {
			tx.query("SELECT dtx_publish(?, ?::jsonb)", name + ".paid", "{\"n\": 1}");
			return null;
		};
		pool.transaction(tx -> {
			publish.with(tx);
			return publish.with(tx);
		});
		rolledBack(pool, publish);
		List<Object> got = new ArrayList<>();
		until("the messages come", () -> pool.transaction(tx -> {
			for (Map<String, Object> row : tx.query("SELECT id, payload ->> 'n' AS n FROM dtx_receive(?, max => 10, wait => '10s')", name)) {
				got.add(row.get("n"));
				tx.query("SELECT dtx_ack(?, ?)", name, new Long[] { (Long) row.get("id") });
			}
			return got.size() >= 2;
		}));
		same(got, List.of("1", "1"));
		pool.query("SELECT dtx_unsubscribe(?)", name);
	}

	interface Situation {
		void run(Driver driver, Pool pool) throws Exception;
	}

	static final Map<String, Situation> SITUATIONS = new LinkedHashMap<>();
	static {
		SITUATIONS.put("bind", Harness::bind);
		SITUATIONS.put("types", Harness::types);
		SITUATIONS.put("rows", Harness::rows);
		SITUATIONS.put("rollback", Harness::rollback);
		SITUATIONS.put("error", Harness::error);
		SITUATIONS.put("retry", Harness::retry);
		SITUATIONS.put("again", Harness::again);
		SITUATIONS.put("savepoint", Harness::savepoint);
		SITUATIONS.put("autosave", Harness::autosave);
		SITUATIONS.put("cancel", Harness::cancel);
		SITUATIONS.put("timeout", Harness::timeout);
		SITUATIONS.put("pool", Harness::pool);
		SITUATIONS.put("discard", Harness::discard);
		SITUATIONS.put("prepared", Harness::prepared);
		SITUATIONS.put("pipeline", Harness::pipeline);
		SITUATIONS.put("views", Harness::views);
		SITUATIONS.put("unavailable", Harness::unavailable);
		SITUATIONS.put("pooler", Harness::pooler);
		SITUATIONS.put("shared", Harness::shared);
		SITUATIONS.put("messages", Harness::messages);
	}

	static String quoted(String text) {
		return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("[\\x00-\\x1f]", " ") + "\"";
	}

	static void run(Driver... drivers) throws Exception {
		String only = System.getenv("DTX_ONLY");
		for (Driver driver : drivers) {
			try (Pool pool = driver.open("bank1", 4, 0)) {
				for (Map.Entry<String, Situation> situation : SITUATIONS.entrySet()) {
					if (only != null && !Arrays.asList(only.split(" ")).contains(situation.getKey()))
						continue;
					String passed = "true", note = "";
					long begun = System.nanoTime();
					try {
						situation.getValue().run(driver, pool);
					} catch (Lacks lacks) {
						passed = "null";
					} catch (Throwable error) {
						passed = "false";
						note = error.toString();
						if (only != null)
							error.printStackTrace();
					}
					System.out.printf("{\"driver\": %s, \"version\": %s, \"situation\": %s, \"passed\": %s, \"note\": %s, \"seconds\": %.3f}%n",
						quoted(driver.name()), quoted(driver.version()), quoted(situation.getKey()), passed, quoted(note), (System.nanoTime() - begun) / 1e9);
				}
			}
		}
	}
}
