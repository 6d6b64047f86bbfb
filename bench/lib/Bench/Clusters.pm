# Clusters.pm: two throw-away clusters on sockets, and the clients that speak to them.
#
# As root, servers and clients run as postgres. Everything lives in one
# temporary directory, which is removed at the end.
package Bench::Clusters;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Copy qw(copy);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use POSIX ();
use Time::HiRes qw(sleep time);

use constant ACCOUNTS => 10_000;

our %PORT = (bank1 => 5431, bank2 => 5432);
our %PEER = (bank1 => 'bank2', bank2 => 'bank1');

my $CONFIGURATION = <<'EOC';
shared_preload_libraries = 'dtx'
listen_addresses = ''
fsync = on
full_page_writes = on
synchronous_commit = on
shared_buffers = 256MB
max_connections = 100
max_prepared_transactions = 100
# no checkpoint disturbs a run
checkpoint_timeout = 30min
max_wal_size = 8GB
min_wal_size = 1GB
log_line_prefix = '%m [%p] %b %d '
EOC

my @running;

# The directory of the bench's files, and where the programs of PostgreSQL are.
sub new
{
	my ($class, %option) = @_;
	my $config = $ENV{PG_CONFIG} || 'pg_config';
	chomp(my $bin = `$config --bindir`);
	chomp(my $lib = `$config --pkglibdir`);
	die "bench: \"$config\" does not work; set PG_CONFIG\n" if $? != 0 || $bin eq '';
	die "bench: dtx is not installed; run \"make install\" first\n" unless -e "$lib/dtx.so";
	die "bench: dblink is not installed; it is part of PostgreSQL's contrib\n" unless -e "$lib/dblink.so";

	my $self = bless {
		bin  => $bin,
		from => $option{from},
		as   => [],
		more => {},
		daemons => [],
		user => scalar getpwuid($>),
		dir  => tempdir('dtx-bench-XXXXXX', TMPDIR => 1),
		pid  => $$,
	}, $class;
	push @running, $self;
	if ($> == 0)
	{
		my (undef, undef, $uid, $gid) = getpwnam('postgres')
		  or die "bench: root needs a user postgres to run servers as\n";
		chown $uid, $gid, $self->{dir};
		$self->{as} = ['runuser', '-u', 'postgres', '--'];
		$self->{user} = 'postgres';
	}
	chmod 0755, $self->{dir};
	mkdir "$self->{dir}/scripts";
	copy($_, "$self->{dir}/scripts/") for glob("$self->{from}/scripts/*.sql");
	copy("$self->{from}/$_", "$self->{dir}/") for qw(setup.sql capture.sql participant.sql messages.sql notify.sql http_loop.c);
	$self->_create($_) for sort keys %PORT;
	$self->psql_file($_, "$self->{dir}/setup.sql", peer => $PEER{$_}, host => $self->{dir},
		port => $PORT{ $PEER{$_} }, accounts => ACCOUNTS)
	  for sort keys %PORT;
	return $self;
}

sub _create
{
	my ($self, $bank) = @_;
	my $data = "$self->{dir}/$bank";

	$self->_quietly("$self->{bin}/initdb", '-D', $data, '-A', 'trust', '-U', $self->{user}, '--no-sync',
		'-E', 'UTF8', '--locale=C.UTF-8');
	open(my $out, '>>', "$data/postgresql.conf") or die "bench: $data/postgresql.conf: $!\n";
	print $out $CONFIGURATION, "port = $PORT{$bank}\nunix_socket_directories = '$self->{dir}'\n";
	close $out;
	$self->_quietly("$self->{bin}/pg_ctl", '-D', $data, '-l', "$data.log", '-w', 'start');
	$self->_quietly("$self->{bin}/createdb", $self->_where($bank), $bank);
}

# One more database in a bank's cluster. Its name serves where a bank's does.
sub create_database
{
	my ($self, $name, $bank) = @_;

	$self->_quietly("$self->{bin}/createdb", $self->_where($bank), $name);
	$self->{more}{$name} = $bank;
}

sub databases { return (sort(keys %PORT), sort keys %{ $_[0]{more} }) }

sub _where
{
	my ($self, $bank) = @_;
	return ('-h', $self->{dir}, '-p', $PORT{ $self->{more}{$bank} // $bank }, '-U', $self->{user});
}

# Run a program as the servers' user, its output in a file. Returns the process's id.
sub _spawn
{
	my ($self, $output, @command) = @_;
	my $pid = fork() // die "bench: fork: $!\n";

	return $pid if $pid;
	chdir '/';
	open(STDIN,  '<', '/dev/null');
	open(STDOUT, '>', $output) or POSIX::_exit(126);
	open(STDERR, '>&', \*STDOUT);
	no warnings 'exec';
	exec(@{ $self->{as} }, @command);
	POSIX::_exit(127);
}

sub _quietly
{
	my ($self, @command) = @_;
	my $log = "$self->{dir}/command.log";

	waitpid($self->_spawn($log, @command), 0);
	die "bench: \"@command\" failed:\n" . slurp($log) if $? != 0;
}

# Run a program to its end. Returns what it prints.
sub run_command
{
	my ($self, @command) = @_;

	$self->_quietly(@command);
	chomp(my $text = slurp("$self->{dir}/command.log"));
	return $text;
}

# A program that runs to the end of the bench.
sub daemon_start
{
	my ($self, $log, @command) = @_;
	push @{ $self->{daemons} }, $self->_spawn($log, @command);
}

# Run statements, each in a transaction of its own. Returns what they print.
sub psql
{
	my ($self, $bank, @statements) = @_;
	my $pid = open(my $in, '-|') // die "bench: fork: $!\n";

	if ($pid == 0)
	{
		chdir '/';
		no warnings 'exec';
		exec(@{ $self->{as} }, "$self->{bin}/psql", '-XAtq', '-v', 'ON_ERROR_STOP=1', $self->_where($bank),
			'-d', $bank, map { ('-c', $_) } @statements);
		POSIX::_exit(127);
	}
	my $answer = do { local $/; <$in> } // '';
	close $in or die "bench: a statement failed at $bank\n";
	chomp $answer;
	return $answer;
}

# The same in the background: one statement, until psql_wait.
sub psql_start
{
	my ($self, $bank, $statement) = @_;
	my $log = "$self->{dir}/psql-" . ++$self->{started} . '.log';
	my $pid = $self->_spawn($log, "$self->{bin}/psql", '-XAtq', '-v', 'ON_ERROR_STOP=1', $self->_where($bank), '-d', $bank,
		'-c', $statement);

	return { pid => $pid, log => $log };
}

sub psql_wait
{
	my ($self, $run) = @_;

	waitpid($run->{pid}, 0);
	die "bench: a statement failed:\n" . slurp($run->{log}) if $? != 0;
	unlink $run->{log};
}

sub psql_file
{
	my ($self, $bank, $file, %variable) = @_;

	$self->_quietly("$self->{bin}/psql", '-Xq', '-v', 'ON_ERROR_STOP=1', $self->_where($bank), '-d', $bank,
		(map { ('-v', "$_=$variable{$_}") } sort keys %variable), '-f', $file);
}

# The command that runs a script of the bench with pgbench.
sub pgbench_command
{
	my ($self, $bank, %option) = @_;
	my %define = (
		accounts => ACCOUNTS, peer => $PEER{$bank}, host => $self->{dir}, port => $PORT{ $PEER{$bank} },
		user => $self->{user}, connected => 0, n => 0, %{ $option{define} || {} });

	return ("$self->{bin}/pgbench", '-n', '-M', $option{mode} || 'simple', '-c', $option{clients},
		'-j', $option{clients} > 1 ? 2 : 1,
		defined $option{transactions} ? ('-t', $option{transactions}) : ('-T', $option{seconds}),
		$option{progress} ? ('-P', $option{progress}) : (),
		$option{rate} ? ('-R', $option{rate}) : (),
		'-f', "$self->{dir}/scripts/$option{script}.sql", $self->_where($bank),
		(map { ('-D', "$_=$define{$_}") } sort keys %define), $bank);
}

sub pgbench_start
{
	my ($self, $bank, %option) = @_;
	my @command = $self->pgbench_command($bank, %option);
	my $log = "$self->{dir}/pgbench-" . ++$self->{started} . '.log';

	return { pid => $self->_spawn($log, @command), log => $log, command => "@command" };
}

# Has this run of pgbench ended?
sub pgbench_ended
{
	my ($self, $run) = @_;

	$run->{status} = $? if !defined $run->{status} && waitpid($run->{pid}, POSIX::WNOHANG()) != 0;
	return defined $run->{status};
}

# Wait for the end of a run. Returns its figures.
sub pgbench_wait
{
	my ($self, $run) = @_;

	if (!defined $run->{status})
	{
		waitpid($run->{pid}, 0);
		$run->{status} = $?;
	}
	my $text = slurp($run->{log});
	unlink $run->{log};
	my ($tps) = $text =~ /^tps = ([\d.]+)/m;
	die "bench: \"$run->{command}\" failed:\n" . substr($text, 0, 4000)
	  if $run->{status} != 0 || !defined $tps || $text =~ /^number of failed transactions: [1-9]/m;
	my ($latency)      = $text =~ /^latency average = ([\d.]+) ms/m;
	my ($transactions) = $text =~ /^number of transactions actually processed: (\d+)/m;
	return {
		tps => $tps, latency => $latency, transactions => $transactions,
		progress => [ $text =~ /^progress: [\d.]+ s, ([\d.]+) tps/mg ],
	};
}

sub pgbench
{
	my ($self, $bank, %option) = @_;
	return $self->pgbench_wait($self->pgbench_start($bank, %option));
}

# The path of a program; undef: there is none.
sub program
{
	my ($name) = @_;
	my ($path) = grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH} || ''), qw(/usr/bin /usr/local/bin /usr/sbin);

	return $path;
}

# The daemon of PgQ for a bank, to the end. It looks every 10 ms whether a tick is due.
sub pgqd_start
{
	my ($self, $bank) = @_;
	my $file = "$self->{dir}/pgqd.ini";

	open(my $out, '>', $file) or die "bench: $file: $!\n";
	print $out "[pgqd]\nbase_connstr = host=$self->{dir} port=$PORT{$bank} user=$self->{user}\n"
	  . "initial_database = $bank\ndatabase_list = $bank\nsyslog = 0\nticker_period = 0.01\n";
	close $out;
	$self->daemon_start("$self->{dir}/pgqd.log", program('pgqd'), $file);
}

# Wait until no branch is left anywhere. Returns how long that took.
sub drain
{
	my ($self) = @_;
	my $start = time;
	my $wait = q{DO $$ BEGIN WHILE EXISTS (SELECT FROM %s) LOOP PERFORM pg_sleep(0.005);
		IF clock_timestamp() > now() + interval '2min' THEN RAISE '%s is not empty after two minutes'; END IF;
		END LOOP; END $$};

	$self->psql('bank1', sprintf($wait, 'dtx.branch', 'dtx.branch'));
	for my $database (grep { $_ ne 'bank1' } $self->databases)
	{
		$self->psql($database, map { sprintf($wait, $_, $_) } qw(dtx.joined_branch pg_prepared_xacts));
	}
	return time - $start;
}

# Is the money all there? What dtx moved must add up everywhere together.
sub check_sum
{
	my ($self) = @_;
	my @databases = $self->databases;
	my $sum = 0;

	$sum += $self->psql($_, 'SELECT sum(account_balance) FROM account_info') for @databases;
	die "bench: the sum of money is $sum\n" if $sum != @databases * ACCOUNTS * 1_000_000_000;
}

# Sessions that hold a snapshot on both sides, until the returned object is closed.
sub hold_snapshots
{
	my ($self) = @_;
	my @held;

	for my $bank (sort keys %PORT)
	{
		my $pid = open(my $to, '|-') // die "bench: fork: $!\n";

		if ($pid == 0)
		{
			chdir '/';
			open(STDOUT, '>', '/dev/null');
			no warnings 'exec';
			exec(@{ $self->{as} }, "$self->{bin}/psql", '-Xq', $self->_where($bank), '-d',
				"dbname=$bank application_name=snapshot");
			POSIX::_exit(127);
		}
		$to->autoflush(1);
		print $to "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM account_info;\n";
		push @held, $to;
	}
	$self->_check_snapshots;
	return \@held;
}

sub _check_snapshots
{
	my ($self) = @_;

	for my $bank (sort keys %PORT)
	{
		my $holds = 0;

		for (1 .. 100)
		{
			$holds = $self->psql($bank, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'snapshot'"
				  . " AND state = 'idle in transaction' AND backend_xmin IS NOT NULL");
			last if $holds == 1;
			sleep 0.1;
		}
		die "bench: no snapshot is held at $bank\n" if $holds != 1;
	}
}

# Let go of them; they must have been there to the end.
sub release_snapshots
{
	my ($self, $held) = @_;

	$self->_check_snapshots;
	for my $to (@$held)
	{
		print $to "COMMIT;\n";
		close $to;
	}
}

# CPU time that both servers have used so far, in s: the postmasters, their
# children that have ended, and those that live.
sub cpu_time
{
	my ($self) = @_;
	my $ticks = 0;

	for my $bank (sort keys %PORT)
	{
		my ($postmaster) = split /\n/, slurp("$self->{dir}/$bank/postmaster.pid");
		my $children = slurp("/proc/$postmaster/task/$postmaster/children");
		my @own = process_times($postmaster);

		$ticks += $_ for @own;
		for my $child (split ' ', $children)
		{
			my @times = process_times($child);
			$ticks += $times[0] + $times[1];
		}
	}
	return $ticks / POSIX::sysconf(&POSIX::_SC_CLK_TCK);
}

# The worker of dtx in a bank's database, and CPU time that it has used so far, in s.
sub worker
{
	my ($self, $bank) = @_;
	my $pid = $self->psql($bank, "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname = current_database()");
	my @times = process_times($pid);

	return { pid => $pid, cpu => ($times[0] + $times[1]) / POSIX::sysconf(&POSIX::_SC_CLK_TCK) };
}

# utime, stime, and those of the children that have ended
sub process_times
{
	my ($pid) = @_;
	my ($fields) = slurp("/proc/$pid/stat") =~ /^.*\) (.*)$/s or return (0, 0, 0, 0);
	return (split ' ', $fields)[ 11 .. 14 ];
}

# Private memory of a process, in kB.
sub private_memory
{
	my ($self, $pid) = @_;
	open(my $in, '<', "/proc/$pid/smaps_rollup") or return undef;
	my %kb = map { /^(\w+):\s+(\d+) kB/ ? ($1 => $2) : () } <$in>;
	return $kb{Anonymous};
}

sub stop
{
	my ($self) = @_;

	for my $pid (splice @{ $self->{daemons} })
	{
		kill 'TERM', $pid;
		waitpid($pid, 0);
	}
	for my $bank (sort keys %PORT)
	{
		my $data = "$self->{dir}/$bank";

		next unless -e "$data/postmaster.pid";
		waitpid($self->_spawn('/dev/null', "$self->{bin}/pg_ctl", '-D', $data, '-m', 'immediate', '-w', 'stop'), 0);
	}
	remove_tree($self->{dir}, { safe => 0 });
	@running = grep { $_ != $self } @running;
}

sub slurp
{
	my ($file) = @_;
	open(my $in, '<', $file) or return '';
	local $/;
	return <$in> // '';
}

END
{
	my $status = $?;
	for my $clusters (@running)
	{
		$clusters->stop if $clusters->{pid} == $$;
	}
	$? = $status;
}

1;
