import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.hibernate.Session;
import org.hibernate.SessionFactory;
import org.hibernate.cfg.Configuration;
import org.springframework.jdbc.core.ColumnMapRowMapper;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.support.JdbcTransactionManager;
import org.springframework.transaction.TransactionDefinition;
import org.springframework.transaction.support.TransactionTemplate;

/** How each driver of Java does what Harness.java wants, as its own documentation says. */
class Main {
	// ---------------------------------------------------------------- the driver, with HikariCP

	static class JdbcTx implements Harness.Tx {
		final Connection connection;

		JdbcTx(Connection connection) {
			this.connection = connection;
		}

		public List<Map<String, Object>> query(String sql, Object... values) throws SQLException {
			List<Map<String, Object>> all = new ArrayList<>();
			try (PreparedStatement statement = connection.prepareStatement(sql)) {
				for (int i = 0; i < values.length; i++)
					bind(statement, i + 1, values[i]);
				if (!statement.execute())
					return all;
				ResultSet rows = statement.getResultSet();
				ResultSetMetaData columns = rows.getMetaData();
				while (rows.next()) {
					Map<String, Object> row = new LinkedHashMap<>();
					for (int i = 1; i <= columns.getColumnCount(); i++)
						row.put(columns.getColumnLabel(i), rows.getObject(i));
					all.add(row);
				}
			}
			return all;
		}

		static void bind(PreparedStatement statement, int n, Object value) throws SQLException {
			statement.setObject(n, value);
		}

		public <R> R nested(Harness.Work<Harness.Tx, R> work) throws Exception {
			Savepoint savepoint = connection.setSavepoint();
			try {
				R result = work.with(this);
				connection.releaseSavepoint(savepoint);
				return result;
			} catch (Exception error) {
				connection.rollback(savepoint);
				throw error;
			}
		}
	}

	static class Hikari implements Harness.Pool {
		final HikariDataSource source;

		Hikari(String bank, int size, int port, String options) {
			HikariConfig config = new HikariConfig();
			// what a pooler does not find again is not prepared
			config.setJdbcUrl(Harness.url(bank, port, (port != 0 ? "?prepareThreshold=0" : "?") + options));
			config.setUsername("shop");
			config.setPassword(Harness.PASSWORD);
			config.setMaximumPoolSize(size);
			config.setMinimumIdle(1);
			config.setAutoCommit(false);
			source = new HikariDataSource(config);
		}

		public <R> R transaction(Harness.Work<Harness.Tx, R> work) throws Exception {
			try (Connection connection = source.getConnection()) {
				try {
					R result = work.with(new JdbcTx(connection));
					connection.commit();
					return result;
				} catch (Throwable error) {
					connection.rollback();
					throw error;
				}
			}
		}

		public void discardAll() throws SQLException {
			try (Connection connection = source.getConnection()) {
				connection.setAutoCommit(true);
				connection.createStatement().execute("DISCARD ALL");
			}
		}

		public void close() {
			source.close();
		}
	}

	static String versionOf(Class<?> one) {
		// the file's name has it: not every manifest does
		String path = one.getProtectionDomain().getCodeSource().getLocation().getPath();
		return path.replaceAll(".*?-([0-9][^/]*?)(\\.Final)?\\.jar$", "$1");
	}

	static class Jdbc implements Harness.Driver, Harness.Cancels, Harness.GivesBack, Harness.Prepares, Harness.Batches {
		public String name() {
			return "pgJDBC, HikariCP";
		}

		public String version() {
			return versionOf(org.postgresql.Driver.class) + ", " + versionOf(HikariDataSource.class);
		}

		public Harness.Pool open(String bank, int size, int port) {
			return new Hikari(bank, size, port, "");
		}

		public void cancel(Harness.Pool pool, Harness.Waits waits, String sql, Object... values) throws Exception {
			try (Connection connection = ((Hikari) pool).source.getConnection(); PreparedStatement statement = connection.prepareStatement(sql)) {
				for (int i = 0; i < values.length; i++)
					statement.setObject(i + 1, values[i]);
				Thread canceller = new Thread(() -> {
					try {
						waits.forPeer();
						statement.cancel();
					} catch (Exception error) {
						error.printStackTrace();
					}
				});
				canceller.start();
				try {
					statement.execute();
				} finally {
					canceller.join();
				}
			}
		}

		public void giveBack(Harness.Pool pool, Harness.Work<Harness.Tx, Void> work) throws Exception {
			try (Connection connection = ((Hikari) pool).source.getConnection()) {
				work.with(new JdbcTx(connection));
			}
		}

		public int prepared(Harness.Work<Harness.Tx, Void> work) throws Exception {
			String[] modes = { "prepareThreshold=1", "prepareThreshold=5", "prepareThreshold=-1", "preferQueryMode=extendedForPrepared",
				"preferQueryMode=extendedCacheEverything", "preferQueryMode=simple", "stringtype=unspecified", "autosave=always",
				"autosave=conservative&cleanupSavepoints=true", "binaryTransfer=false" };
			for (String mode : modes) {
				try (Hikari pool = new Hikari("bank1", 1, 0, mode)) {
					for (int i = 0; i < 8; i++)
						pool.transaction(work);
				} catch (Exception error) {
					throw new Exception(mode + ": " + error.getMessage(), error);
				}
			}
			return modes.length;
		}

		public void batch(Harness.Pool pool, String no) throws Exception {
			try (Connection connection = ((Hikari) pool).source.getConnection(); PreparedStatement statement = connection.prepareStatement(Harness.AT_BANK2)) {
				for (int i = 0; i < 3; i++) {
					statement.setString(1, "bank2");
					statement.setString(2, Harness.CREDIT);
					statement.setInt(3, 1);
					statement.setString(4, no);
					statement.addBatch();
				}
				statement.executeBatch();
				connection.commit();
			}
		}
	}

	// ---------------------------------------------------------------- the same with savepoints at each statement

	static class Autosave extends Jdbc {
		public String name() {
			return "pgJDBC, autosave";
		}

		public String version() {
			return versionOf(org.postgresql.Driver.class);
		}

		public Harness.Pool open(String bank, int size, int port) {
			return new Hikari(bank, size, port, "&autosave=always");
		}
	}

	// ---------------------------------------------------------------- Spring

	static class SpringTx implements Harness.Tx {
		final JdbcTemplate template;
		final JdbcTransactionManager manager;

		SpringTx(JdbcTemplate template, JdbcTransactionManager manager) {
			this.template = template;
			this.manager = manager;
		}

		public List<Map<String, Object>> query(String sql, Object... values) {
			if (sql.startsWith("SELECT"))
				return template.query(sql, new ColumnMapRowMapper(), values);
			template.update(sql, values);
			return List.of();
		}

		public <R> R nested(Harness.Work<Harness.Tx, R> work) throws Exception {
			return inTransaction(TransactionDefinition.PROPAGATION_NESTED, work);
		}

		<R> R inTransaction(int propagation, Harness.Work<Harness.Tx, R> work) throws Exception {
			TransactionTemplate transaction = new TransactionTemplate(manager);
			transaction.setPropagationBehavior(propagation);
			return transaction.execute(status -> {
				try {
					return work.with(this);
				} catch (RuntimeException error) {
					throw error;
				} catch (Exception error) {
					throw new IllegalStateException(error);
				}
			});
		}
	}

	static class SpringPool extends Hikari {
		final SpringTx tx;

		SpringPool(String bank, int size, int port) {
			super(bank, size, port, "");
			tx = new SpringTx(new JdbcTemplate(source), new JdbcTransactionManager(source));
		}

		public <R> R transaction(Harness.Work<Harness.Tx, R> work) throws Exception {
			return tx.inTransaction(TransactionDefinition.PROPAGATION_REQUIRED, work);
		}
	}

	static class Spring implements Harness.Driver {
		public String name() {
			return "Spring JDBC";
		}

		public String version() {
			return versionOf(JdbcTemplate.class);
		}

		public Harness.Pool open(String bank, int size, int port) {
			return new SpringPool(bank, size, port);
		}
	}

	// ---------------------------------------------------------------- Hibernate

	static class HibernateTx implements Harness.Tx {
		final Session session;

		HibernateTx(Session session) {
			this.session = session;
		}

		public List<Map<String, Object>> query(String sql, Object... values) {
			if (!sql.startsWith("SELECT")) {
				var update = session.createNativeMutationQuery(sql);
				for (int i = 0; i < values.length; i++)
					update.setParameter(i + 1, values[i]);
				update.executeUpdate();
				return List.of();
			}
			var query = session.createNativeQuery(sql, Object.class);
			for (int i = 0; i < values.length; i++) {
				if (values[i] == null)
					query.setParameter(i + 1, null, String.class);
				else
					query.setParameter(i + 1, values[i]);
			}
			query.setTupleTransformer((row, names) -> {
				Map<String, Object> map = new LinkedHashMap<>();
				for (int i = 0; i < names.length; i++)
					map.put(names[i], row[i]);
				return map;
			});
			@SuppressWarnings("unchecked")
			List<Map<String, Object>> rows = (List<Map<String, Object>>) (List<?>) query.getResultList();
			return rows;
		}

		// its own transactions do not nest
		public <R> R nested(Harness.Work<Harness.Tx, R> work) throws Exception {
			Savepoint savepoint = session.doReturningWork(Connection::setSavepoint);
			try {
				R result = work.with(this);
				session.doWork(connection -> connection.releaseSavepoint(savepoint));
				return result;
			} catch (Exception error) {
				session.doWork(connection -> connection.rollback(savepoint));
				throw error;
			}
		}
	}

	static class HibernatePool extends Hikari {
		final SessionFactory sessions;

		HibernatePool(String bank, int size, int port) {
			super(bank, size, port, "");
			Configuration configuration = new Configuration();
			configuration.getProperties().put("hibernate.connection.datasource", source);
			configuration.setProperty("hibernate.connection.provider_disables_autocommit", "true");
			sessions = configuration.buildSessionFactory();
		}

		public <R> R transaction(Harness.Work<Harness.Tx, R> work) throws Exception {
			try (Session session = sessions.openSession()) {
				var transaction = session.beginTransaction();
				try {
					R result = work.with(new HibernateTx(session));
					transaction.commit();
					return result;
				} catch (Throwable error) {
					transaction.rollback();
					throw error;
				}
			}
		}

		public void close() {
			sessions.close();
			super.close();
		}
	}

	static class Hibernate implements Harness.Driver {
		public String name() {
			return "Hibernate";
		}

		public String version() {
			return versionOf(Session.class);
		}

		public Harness.Pool open(String bank, int size, int port) {
			return new HibernatePool(bank, size, port);
		}

		// any of the database's marks it to be rolled back
		public boolean goesOnAfterError() {
			return false;
		}
	}

	public static void main(String[] arguments) throws Exception {
		java.util.logging.LogManager.getLogManager().reset();
		Harness.run(new Jdbc(), new Autosave(), new Spring(), new Hibernate());
		System.exit(0);
	}
}
