# The campaign that attacks: roles with few rights call functions of dtx at random,
# with arguments drawn by type and objects of theirs in the way, move transactions,
# forge what coordinators say; while tellers make transfers.
#
#	SEED=n DURATION=s prove t/051_attack_campaign.pl
#
# Nobody gains anything: roles, members, rights and what she may not write are as
# they were, and no code of a role runs as another. No process of the server ends.
# What tellers were told is committed settles, and the money is all there.
#
# The seed fixes what each attacker does, though not how they interleave.

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use DtxTest;
use DtxTest::Attack;

my $seed = $ENV{SEED} || int(rand(2**31));
my $duration = $ENV{DURATION} || 20;
my $me = (getpwuid($>))[0];

diag "SEED=$seed DURATION=$duration";

# What each attacker was given: nothing; what the README gives an application; a
# place among those that take part; tables; databases; messages.
my %given = (
	nobody => [],
	app => [ 'GRANT SELECT, UPDATE ON account_info TO app', 'GRANT USAGE ON FOREIGN SERVER %peer% TO app' ],
	admitted => [ q{SELECT dtx_admit('admitted')} ],
	owner => [ 'GRANT USAGE ON FOREIGN SERVER %peer% TO owner', q{SELECT dtx_admit('owner')}, 'GRANT SELECT ON account_info TO owner' ],
	creator => [ 'GRANT CREATE ON DATABASE %bank% TO creator', 'GRANT USAGE ON FOREIGN DATA WRAPPER dtx_fdw TO creator' ],
	messenger => [
		'GRANT EXECUTE ON FUNCTION dtx_subscribe, dtx_notify, dtx_outcome, dtx_on_notification, dtx_accept TO messenger',
		'GRANT USAGE ON FOREIGN SERVER %peer%, web TO messenger',
		q{SELECT dtx_admit('messenger')}
	]);
my @attackers = sort keys %given;

# --- two banks of one cluster, and a database with a schema dtx of somebody's own

my @accounts = map { "('$_', 'Owner of $_', 1000)" } 't1' .. 't6', 'a1', 'a2', 'vault';
my $node = new_bank('bank1', accounts => \@accounts, conf => <<'CONF');
max_connections = 100
max_prepared_transactions = 40
max_worker_processes = 20
log_line_prefix = '%m [%p] %e %u@%d '
log_error_verbosity = verbose
log_min_error_statement = error
CONF
my @banks = qw(bank1 bank2);
my %peer = (bank1 => 'bank2', bank2 => 'bank1');
new_bank_database($node, 'bank2', \@accounts);
my $roles = join '', map { "CREATE ROLE $_ LOGIN; ALTER ROLE $_ SET statement_timeout = '1s';"
	  . " ALTER ROLE $_ SET idle_in_transaction_session_timeout = '5s';" } @attackers;
$node->safe_psql('postgres', "$roles ALTER ROLE creator CREATEDB; CREATE ROLE teller LOGIN; CREATE DATABASE elsewhere OWNER creator");
foreach my $bank (@banks)
{
	make_peer($node, $node, database => $bank, peer_database => $peer{$bank});
	my @sql = (
		'CREATE TABLE vault (gold integer PRIMARY KEY)', 'INSERT INTO vault VALUES (1000)', q{SELECT dtx_attach('vault')},
		q{CREATE SERVER web FOREIGN DATA WRAPPER dtx_fdw OPTIONS (url 'http://127.0.0.1:1/hook', allow_private 'true')},
		'GRANT SELECT, UPDATE ON account_info TO teller', q{SELECT dtx_admit('teller')},
		"GRANT USAGE ON FOREIGN SERVER $peer{$bank} TO teller",
		"CREATE USER MAPPING FOR teller SERVER $peer{$bank} OPTIONS (user 'teller', password_required 'false')");
	foreach my $role (@attackers)
	{
		push @sql, map { s/%peer%/$peer{$bank}/gr =~ s/%bank%/$bank/gr } @{ $given{$role} };
		push @sql, "CREATE SCHEMA $role AUTHORIZATION $role" if $role ne 'nobody';
		push @sql, "CREATE USER MAPPING FOR $role SERVER $peer{$bank} OPTIONS (user '$role', password_required 'false')"
		  if "@{ $given{$role} }" =~ /%peer%/;
	}
	$node->safe_psql($bank, join ';', @sql);
}

sub session_as
{
	my ($role, $database) = @_;
	return DtxTest::Session->new($node->connstr($database) . " user=$role", application => "client $role", fail_ok => 1);
}

foreach my $role (grep { $_ ne 'nobody' } @attackers)
{
	foreach my $bank (@banks)
	{
		my $s = session_as($role, $bank);
		foreach my $sql (objects_in_the_way($role))
		{
			my $r = $s->run($sql);
			note "$role at $bank could not: $sql\n$r->{err}" unless $r->{ok};
		}
		$s->close;
	}
}
my $s = session_as('creator', 'elsewhere');
$s->must('CREATE SCHEMA dtx', 'CREATE SCHEMA creator');
foreach my $sql (objects_in_the_way('creator'),
	map({ "CREATE VIEW dtx.$_ AS SELECT (evil() IS NULL)::text AS gid, 1::bigint AS xid" } qw(undo_log branch joined_branch node global)),
	map({ "CREATE TABLE dtx.$_ (gid text, id bigint)" } qw(message history settled subscription contact)),
	'CREATE FUNCTION dtx.capture() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM evil(); RETURN NEW; END$$',
	'CREATE TRIGGER dtx_capture AFTER INSERT OR UPDATE OR DELETE ON mine FOR EACH ROW EXECUTE FUNCTION dtx.capture()')
{
	$s->run($sql);
}
$s->close;

# --- what must stay

sub at_bank
{
	my ($bank, $sql) = @_;
	return value($node, $sql, $bank);
}

# Roles and rights, but those that attackers have on objects of their own.
my $own = join ', ', map { "'$_'::regrole" } @attackers;
my $rights = <<"SQL";
SELECT string_agg(line::text, E'\\n' ORDER BY line::text COLLATE "C") FROM (
    SELECT to_jsonb(r) - 'oid'::text FROM pg_authid r
    UNION ALL SELECT to_jsonb(m) FROM pg_auth_members m
    UNION ALL SELECT to_jsonb(s) FROM pg_db_role_setting s
    UNION ALL SELECT jsonb_build_array(datname, datdba, datacl) FROM pg_database WHERE datdba NOT IN ($own)
    UNION ALL SELECT jsonb_build_array('class', oid, relowner, relacl, relkind, relrowsecurity, relhastriggers) FROM pg_class
        WHERE relowner NOT IN ($own) AND relkind <> 't' AND relnamespace <> 'dtx'::regnamespace
    UNION ALL SELECT jsonb_build_array('class', relname, relowner, relacl, relkind, relhastriggers) FROM pg_class
        WHERE relnamespace = 'dtx'::regnamespace AND relkind <> 'i' AND relname !~ '\\d\$'
    UNION ALL SELECT jsonb_build_array('proc', oid, proowner, proacl, prosecdef, prosrc, proconfig) FROM pg_proc WHERE proowner NOT IN ($own)
    UNION ALL SELECT jsonb_build_array('schema', oid, nspowner, nspacl) FROM pg_namespace WHERE nspowner NOT IN ($own) AND nspname !~ '^pg_(toast_)?temp_'
    UNION ALL SELECT jsonb_build_array('server', oid, srvowner, srvacl, srvoptions) FROM pg_foreign_server WHERE srvowner NOT IN ($own)
    UNION ALL SELECT jsonb_build_array('wrapper', oid, fdwowner, fdwacl) FROM pg_foreign_data_wrapper
    UNION ALL SELECT jsonb_build_array('mapping', umuser, umserver, umoptions) FROM pg_user_mapping WHERE umuser NOT IN ($own)
    UNION ALL SELECT jsonb_build_array('language', lanowner, lanacl) FROM pg_language
    UNION ALL SELECT jsonb_build_array('default', d) FROM pg_default_acl d
    UNION ALL SELECT jsonb_build_array('extension', e) FROM pg_extension e
    UNION ALL SELECT jsonb_build_array('trigger', tgrelid, tgname, tgfoid, tgenabled) FROM pg_trigger
        WHERE tgrelid IN (SELECT oid FROM pg_class WHERE relowner NOT IN ($own))
    UNION ALL SELECT jsonb_build_array('event trigger', e) FROM pg_event_trigger e
    UNION ALL SELECT jsonb_build_array('publication', p) FROM pg_publication p
    UNION ALL SELECT jsonb_build_array('cast', c) FROM pg_cast c WHERE oid < 16384
    UNION ALL SELECT jsonb_build_array('vault', v) FROM vault v
    UNION ALL SELECT jsonb_build_array('node', n) FROM dtx.node n
    UNION ALL SELECT jsonb_build_array('ledger', l) FROM dtx.ledger l
    UNION ALL SELECT jsonb_build_array('action', a) FROM dtx.tcc_action a WHERE a::text ~ 'ledger'
) AS everything(line)
SQL
my %before = map { $_ => at_bank($_, $rights) } @banks;
my $started = value($node, 'SELECT pg_postmaster_start_time()', 'postgres');
my $mark = log_mark($node);

sub money_now
{
	return at_bank('bank1', 'SELECT sum(account_balance) FROM account_info') +
	  at_bank('bank2', 'SELECT sum(account_balance) FROM account_info');
}
my $total = money_now();

# Functions of the extension: [name, [argument, type, has a default], ...]
my @functions;
foreach my $line (split /\n/, at_bank('bank1', <<'SQL'))
SELECT format('%s.%I', p.pronamespace::regnamespace, p.proname)
    || coalesce(string_agg(E'\t' || concat_ws('|', coalesce(nullif(p.proargnames[a.n], ''), 'x'), format_type(a.type, NULL),
           (a.n > p.pronargs - p.pronargdefaults)::int), '' ORDER BY a.n) FILTER (WHERE a.n IS NOT NULL), '')
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dtx')
LEFT JOIN LATERAL unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(type, n) ON true
GROUP BY p.oid ORDER BY p.oid::regprocedure::text COLLATE "C"
SQL
{
	my ($name, @arguments) = split /\t/, $line;
	push @functions, [ $name, map { [ split /\|/ ] } @arguments ];
}
cmp_ok(scalar @functions, '>', 50, 'the functions of the extension are known');

# --- attackers and tellers

my $notes = PostgreSQL::Test::Utils::tempdir . '/notes';
my $rumours = PostgreSQL::Test::Utils::tempdir . '/rumours';

# What an attacker may have heard: ids of transactions, nodes, numbers.
sub heard
{
	open my $file, '<', $rumours or return {};
	my %known;
	while (my $line = <$file>)
	{
		chomp $line;
		my ($kind, @values) = split /\t/, $line;
		$known{$kind} = \@values;
	}
	return \%known;
}

sub spread_rumours
{
	my $xids = join "\t", map { at_bank($_, <<'SQL') =~ tr/\n/\t/r } @banks;
SELECT * FROM (SELECT DISTINCT xid FROM dtx_branches UNION SELECT xid FROM dtx_transactions UNION SELECT xid FROM dtx.global
    UNION (SELECT xid FROM dtx_history ORDER BY 1 DESC LIMIT 3)) x LIMIT 40
SQL
	my $nodes = join "\t", map { at_bank($_, q{SELECT name || '.' || tag FROM dtx.node}) =~ tr/\n/\t/r } @banks;
	my $numbers = at_bank('bank1', 'SELECT pg_current_xact_id()');
	open my $file, '>', "$rumours.new" or die;
	print $file "xids\t$xids\nnodes\t$nodes\nnumbers\t$numbers\n";
	close $file;
	rename "$rumours.new", $rumours;
	return;
}

sub attacker
{
	my ($number, $role, $until) = @_;
	my $done = 0;
	my ($session, $database, $known);
	srand($seed + $number);
	open my $note, '>', "$notes.$number" or die;
	$note->autoflush(1);
	while (time() < $until)
	{
		if (!defined $session || rand() < 0.01)
		{
			$session->close if defined $session;
			my @places = $role eq 'creator' ? (qw(bank1 bank1 bank2 elsewhere)) : (qw(bank1 bank1 bank2));
			$database = pick(@places);
			$session = session_as($role, $database);
			usleep(20_000), next unless defined $session;
			$session->run("SET search_path = '\$user', pg_catalog, public") if rand() < 0.5;
		}
		$known = heard() if $done++ % 10 == 0;
		my $sql = attack_statement(\@functions, $known);
		print $note time() . " $database " . $session->backend . ' ' . substr($sql, 0, 3000) . "\n";
		my $r = $session->run($sql, 180);
		print $note "\t" . ($r->{ok} ? 'ok ' . substr($r->{out}, 0, 100) : $r->{err} =~ s/\n.*//sr) . "\n";
		undef $session if $r->{lost};
	}
	$session->close if defined $session;
	return;
}

# Transfers in every mode. Notes how many were committed, and those that were not settled.
sub teller
{
	my ($number, $role, $until) = @_;
	my %sessions;
	srand($seed + $number);
	open my $note, '>', "$notes.$number" or die;
	$note->autoflush(1);
	while (time() < $until)
	{
		my $bank = pick(@banks);
		my $s = $sessions{$bank} //= session_as('teller', $bank);
		usleep(20_000), next unless defined $s;
		my $transfer = sprintf q{SELECT dtx_transfer('%s', 't%d', 't%d', %d, '%s')}, $peer{$bank}, 1 + int rand 6, 1 + int rand 6,
		  1 + int rand 9, pick(qw(at xa tcc));
		my $xid;
		my $ok = 1;
		foreach my $sql ('BEGIN', $transfer, 'SELECT dtx_xid()', 'COMMIT')
		{
			my $r = $s->run($sql, 180);
			$xid = $r->{out} if $sql =~ /dtx_xid/;
			next if $r->{ok};
			print $note "refused $r->{state} $sql: " . ($r->{err} =~ s/\n/ /gr) . "\n";
			$ok = 0;
			undef $sessions{$bank} if $r->{lost} || !$s->run('ROLLBACK')->{ok};
			last;
		}
		next unless $ok;
		my $state = $s->run("SELECT dtx_wait('$xid', '180s')", 180)->{out};
		print $note $state eq 'committed' ? "committed\n" : "unsettled $xid: $state\n";
	}
	$_->close foreach grep { defined } values %sessions;
	return;
}

my $number = 0;
my @pids;

sub start
{
	my ($work, $role, $until) = @_;
	$number++;
	my $pid = fork() // die "fork: $!";
	if ($pid)
	{
		push @pids, [ $pid, $role, $number ];
		return;
	}
	# the cluster belongs to the parent: end without its END blocks
	eval { $work->($number, $role, $until); 1 } or do
	{
		print STDERR "$role $number: $@";
		POSIX::_exit(1);
	};
	POSIX::_exit(0);
}

spread_rumours();
# or else they would hold its pipes open
forget_sessions();
my $until = time() + $duration;
start(\&attacker, $_, $until) foreach @attackers;
start(\&teller, 'teller', $until) foreach 1 .. 2;
my $ended = qr/PANIC:|TRAP:|terminated by signal/;
while (time() < $until)
{
	usleep(300_000);
	last if log_since($node, $mark) =~ $ended;
	spread_rumours();
	# what is prepared holds locks as long as it likes
	foreach my $bank (@banks)
	{
		foreach my $gid (split /\n/, at_bank($bank, q{SELECT quote_literal(gid) FROM pg_prepared_xacts
				WHERE gid IN ('p', 'q') AND database = current_database()}))
		{
			eval { at_bank($bank, "ROLLBACK PREPARED $gid") };
		}
	}
}
foreach my $process (@pids)
{
	my ($pid, $role, $which) = @$process;
	waitpid $pid, 0;
	is($?, 0, "$role $which came to an end");
}

# --- what came of it

if (log_since($node, $mark) =~ /^(.*(?:$ended).*\n.*)$/m)
{
	# nothing else is worth asking
	fail("no process of the server ended: $1");
	diag "SEED=$seed";
	done_testing();
	exit 1;
}
foreach my $bank (@banks)
{
	my @prepared = split /\n/, at_bank($bank, q{SELECT quote_literal(gid) FROM pg_prepared_xacts
		WHERE owner <> 'teller' AND database = current_database()
		AND gid !~ '^bank[12]\.'});
	at_bank($bank, "ROLLBACK PREPARED $_") foreach @prepared;
}
is(value($node, 'SELECT pg_postmaster_start_time()', 'postgres'), $started, 'the server has not restarted');
foreach my $bank (@banks)
{
	my $now = at_bank($bank, $rights);
	ok($now eq $before{$bank}, "$bank: roles, rights and what is in the vault are as they were") or do
	{
		my %old = map { $_ => 1 } split /\n/, $before{$bank};
		my %new = map { $_ => 1 } split /\n/, $now;
		diag join "\n", (map { "- $_" } grep { !$new{$_} } sort keys %old), (map { "+ $_" } grep { !$old{$_} } sort keys %new);
	};
	ok( wait_for_value($node, q{SELECT count(*) FROM dtx_branches b WHERE role = 'teller'}, '0', 120, $bank),
		"$bank: nothing of the tellers' is left")
	  or diag at_bank($bank, q{SELECT string_agg(b::text, E'\n') FROM dtx_branches b WHERE role = 'teller'});
}
ok( wait_until(sub { money_now() == $total }, 'the money is all there', 120), 'the money is all there')
  or diag money_now() . " instead of $total", map { "\n" . at_bank($_, q{SELECT string_agg(b::text, E'\n') FROM dtx_branches b}) } @banks;

my $log = log_since($node, $mark);
my @alarms = $log =~ /^(.*(?:LOOT:|runtime error:|AddressSanitizer).*)$/mg;
is(scalar @alarms, 0, 'nobody\'s code ran as another')
  or diag join "\n", @alarms[ 0 .. ($#alarms < 20 ? $#alarms : 20) ];
my @internal = $log =~ /^(.* XX\d\d\d .*(?:ERROR|FATAL): .*)$/mg;
is(scalar @internal, 0, 'every refusal has an SQLSTATE of its own')
  or diag join "\n", @internal[ 0 .. ($#internal < 20 ? $#internal : 20) ];

my %count;
foreach my $process (@pids)
{
	my ($pid, $role, $which) = @$process;
	foreach my $line (split /\n/, slurp_file("$notes.$which"))
	{
		if ($role eq 'teller')
		{
			my ($outcome) = $line =~ /^(\w+)/;
			$count{"teller: $outcome"}++;
			diag $line if $outcome eq 'unsettled';
		}
		else
		{
			$count{"$role: " . ($1 eq 'ok' ? 'done' : 'refused')}++ if $line =~ /^\t(\w+)/;
		}
	}
}
note join ', ', map { "$_ $count{$_}" } sort keys %count;
cmp_ok($count{'teller: committed'} // 0, '>', $duration / 5, 'the tellers have made transfers');
is($count{'teller: unsettled'} // 0, 0, 'which were settled');
cmp_ok($count{"$_: refused"} // 0, '>', $duration / 5, "$_ has attacked") foreach @attackers;

diag "SEED=$seed" unless Test::More->builder->is_passing;
done_testing();
