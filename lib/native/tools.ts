import { spawnSync } from "node:child_process";

/** A program that building needs. */
export interface Tool {
  readonly found: boolean;
  /** The command that works. */
  readonly path?: string;
  readonly version?: string;
  /** Where it is missing or too old: one sentence with the fix. */
  readonly problem?: string;
}

/** The programs that building from source needs. */
export interface Tools {
  readonly compiler: Tool;
  readonly cmake: Tool;
  readonly make: Tool;
}

const MINIMUM = { "g++": 10, "clang++": 13, cmake: 3.18 };

/** Looks for a C++20 compiler (`CXX` first), CMake and make or ninja. */
export function findTools(env: NodeJS.ProcessEnv = process.env): Tools {
  return { compiler: findCompiler(env), cmake: findCmake(env), make: findMake(env) };
}

function ask(command: string, env: NodeJS.ProcessEnv): string | null {
  const result = spawnSync(command, ["--version"], { encoding: "utf8", timeout: 20_000, env });
  return result.status === 0 ? result.stdout.trim() : null;
}

function findCompiler(env: NodeJS.ProcessEnv): Tool {
  const fix =
    process.platform === "darwin"
      ? "xcode-select --install"
      : "apt-get install g++ (Debian, Ubuntu) or dnf install gcc-c++ (Fedora, RHEL)";
  const candidates = env.CXX ? [env.CXX] : ["c++", "g++", "clang++"];
  const seen: string[] = [];
  for (const command of candidates) {
    const [program = "", ...rest] = command.split(" ");
    const answer = rest.length ? ask(rest[rest.length - 1] ?? program, env) : ask(program, env);
    if (answer === null) continue;
    const version = /(\d+)\.\d+(?:\.\d+)?/.exec(answer)?.[0] ?? "0";
    const minimum = /clang/i.test(answer) ? MINIMUM["clang++"] : MINIMUM["g++"];
    if (Number.parseInt(version, 10) >= minimum) return { found: true, path: command, version };
    seen.push(`${command} ${version}`);
  }
  const received = seen.length ? seen.join(", ") : `none (tried ${candidates.join(", ")})`;
  return {
    found: false,
    problem: `Expected a C++20 compiler (g++ 10 or clang 13, or newer) for building but received ${received}. Fix: ${fix}.`,
  };
}

function findCmake(env: NodeJS.ProcessEnv): Tool {
  const fix = process.platform === "darwin" ? "brew install cmake" : "apt-get install cmake, or pip install cmake";
  const answer = ask("cmake", env);
  const version = /(\d+)\.(\d+)(?:\.\d+)?/.exec(answer ?? "");
  const usable = version && (Number(version[1]) > 3 || Number(version[2]) >= 18);
  if (version && usable) return { found: true, path: "cmake", version: version[0] };
  return {
    found: false,
    problem: `Expected cmake ${MINIMUM.cmake} or newer for building but received ${version ? version[0] : "none"}. Fix: ${fix}.`,
  };
}

function findMake(env: NodeJS.ProcessEnv): Tool {
  const wanted = env.CMAKE_GENERATOR?.startsWith("Ninja") ? "ninja" : "make";
  const answer = ask(wanted, env);
  if (answer !== null) return { found: true, path: wanted, version: /[\d.]+/.exec(answer)?.[0] ?? "" };
  return {
    found: false,
    problem: `Expected ${wanted} for building but received none. Fix: apt-get install ${wanted === "make" ? "make" : "ninja-build"}.`,
  };
}
