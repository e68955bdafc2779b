import java.io.*;
import java.net.Socket;
import java.nio.*;
import java.nio.charset.StandardCharsets;
import java.security.*;
import java.util.*;
import javax.security.auth.Subject;
import javax.security.auth.login.*;
import org.ietf.jgss.*;

/**
 * java Pool.java HOST PORT SPN: a pool (see pool.py) by the JDK's Kerberos, used as mssql-jdbc uses it: a login by
 * Krb5LoginModule with the ticket cache, then a GSS context for the SPN that asks for delegation. The TDS around it is
 * the least that logs in. mssql-jdbc itself comes from no registry that the lab uses.
 */
class Pool {
    record Connection(DataInputStream in, OutputStream out) {}

    static final Configuration CACHE = new Configuration() {
        public AppConfigurationEntry[] getAppConfigurationEntry(String name) {
            var options = Map.of("useTicketCache", "true", "doNotPrompt", "true");
            return new AppConfigurationEntry[] {new AppConfigurationEntry("com.sun.security.auth.module.Krb5LoginModule",
                AppConfigurationEntry.LoginModuleControlFlag.REQUIRED, options)};
        }
    };

    public static void main(String[] args) throws IOException {
        var pool = new ArrayList<Connection>();
        var in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null;) {
            var start = System.nanoTime();
            String answer;
            try {
                var words = line.split(" ");
                if (words[0].equals("open")) pool.add(connect(args[0], Integer.parseInt(args[1]), args[2]));
                var number = words.length > 1 ? Integer.parseInt(words[1]) : pool.size() - 1;
                answer = "ok " + number + " " + query(pool.get(number));
            } catch (Exception error) {
                Throwable cause = error instanceof PrivilegedActionException ? error.getCause() : error;
                answer = "failed " + cause;
            }
            System.out.println((System.nanoTime() - start) / 1000000 + " " + answer.replaceAll("\\s+", " "));
        }
    }

    /** Without a Subject where javax.security.auth.useSubjectCredsOnly is false: for the native library. */
    static byte[] token(String spn) throws Exception {
        if (!Boolean.parseBoolean(System.getProperty("javax.security.auth.useSubjectCredsOnly", "true"))) return context(spn);
        var login = new LoginContext("Pool", new Subject(), null, CACHE);
        login.login();
        return Subject.doAs(login.getSubject(), (PrivilegedExceptionAction<byte[]>) () -> context(spn));
    }

    static byte[] context(String spn) throws GSSException {
        var krb5 = new Oid("1.2.840.113554.1.2.2");
        var manager = GSSManager.getInstance();
        var name = manager.createName(spn, new Oid("1.2.840.113554.1.2.2.1"));
        var context = manager.createContext(name, krb5, null, GSSContext.DEFAULT_LIFETIME);
        context.requestCredDeleg(true);
        context.requestMutualAuth(true);
        context.requestInteg(true);
        return context.initSecContext(new byte[0], 0, 0);
    }

    static Connection connect(String host, int port, String spn) throws Exception {
        var token = token(spn);
        var socket = new Socket(host, port);
        var connection = new Connection(new DataInputStream(socket.getInputStream()), socket.getOutputStream());
        // PRELOGIN: one option, no encryption
        call(connection, 0x12, new byte[] {1, 0, 6, 0, 1, (byte) 0xff, 2});
        var login = ByteBuffer.allocate(94 + token.length).order(ByteOrder.LITTLE_ENDIAN);
        login.putInt(94 + token.length).putInt(0x74000004).putInt(4096);
        login.put(25, (byte) 0x80); // integrated security
        login.putShort(78, (short) 94).putShort(80, (short) token.length);
        login.position(94);
        login.put(token);
        var answer = call(connection, 0x10, login.array());
        if ((answer[0] & 0xff) == 0xaa) throw new IOException("refused: " + new String(answer, StandardCharsets.UTF_16LE));
        return connection;
    }

    static String query(Connection connection) throws IOException {
        var text = "SELECT SEEN()".getBytes(StandardCharsets.UTF_16LE);
        var batch = ByteBuffer.allocate(22 + text.length).order(ByteOrder.LITTLE_ENDIAN);
        batch.putInt(22).putInt(18).putShort((short) 2).putLong(0).putInt(1).put(text);
        var answer = call(connection, 1, batch.array());
        var seen = new String(answer, StandardCharsets.UTF_16LE) + new String(answer, 1, answer.length - 1, StandardCharsets.UTF_16LE);
        var found = java.util.regex.Pattern.compile("principal=[\\x20-\\x7e]*").matcher(seen);
        if (!found.find()) throw new IOException("an answer without a row");
        return found.group();
    }

    static byte[] call(Connection connection, int kind, byte[] body) throws IOException {
        for (int at = 0; at < body.length; at += 4088) {
            var size = Math.min(4088, body.length - at);
            var packet = ByteBuffer.allocate(8 + size);
            packet.put((byte) kind).put((byte) (at + size == body.length ? 1 : 0)).putShort((short) (8 + size)).putInt(0);
            packet.put(body, at, size);
            connection.out.write(packet.array());
        }
        var all = new ByteArrayOutputStream();
        for (int status = 0; status == 0;) {
            connection.in.readUnsignedByte();
            status = connection.in.readUnsignedByte() & 1;
            var length = connection.in.readUnsignedShort();
            connection.in.readInt();
            all.write(connection.in.readNBytes(length - 8));
        }
        return all.toByteArray();
    }
}
