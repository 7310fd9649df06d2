//! Part of `build.rs`: reads what ptxas reports.

/// What a kernel takes on an architecture.
pub struct Usage {
    pub kernel: String,
    /// `90a`.
    pub arch: String,
    pub registers: u32,
    /// Static shared memory in bytes.
    pub shared: u32,
    /// Stack frame in bytes per thread.
    pub stack: u32,
    /// Bytes per thread stored where registers ran out, and loaded back.
    pub spills: u32,
}

/// Reads ptxas' report.
pub fn usage(log: &str) -> Vec<Usage> {
    let quoted = |line: &str, n| line.split('\'').nth(n).unwrap_or_default().to_string();
    // The number in front of a word: "1256 bytes stack frame".
    let number = |line: &str, word: &str| {
        let (before, _) = line.split_once(word)?;
        before.trim_end().rsplit(' ').next()?.parse::<u32>().ok()
    };
    let mut found: Vec<Usage> = Vec::new();
    // Device functions that are not inlined have properties, too.
    let mut function = "";
    for line in log.lines() {
        if line.contains("Compiling entry function") {
            found.push(Usage {
                kernel: quoted(line, 1),
                arch: quoted(line, 3).replace("sm_", ""),
                registers: 0,
                shared: 0,
                stack: 0,
                spills: 0,
            });
        }
        let Some(entry) = found.last_mut() else {
            continue;
        };
        if let Some((_, name)) = line.split_once("Function properties for ") {
            function = name.trim();
        } else if let Some(frame) = number(line, "bytes stack frame") {
            if function == entry.kernel {
                let spilled = |what| number(line, what).unwrap_or(0);
                entry.stack = frame;
                entry.spills = spilled("bytes spill stores") + spilled("bytes spill loads");
            }
        } else if let Some(registers) = number(line, "registers") {
            entry.registers = registers;
            entry.shared = number(line, "bytes smem").unwrap_or(0);
        }
    }
    found
}

/// What `kernels list` has printed in a build with nvcc, which is kept for those without: the CUDA
/// version that compiled the kernels, and what each takes.
pub fn recorded(text: &str) -> Option<((u32, u32), Vec<Usage>)> {
    let version = text.lines().find_map(|line| {
        let (version, _) = line.strip_prefix("Compiled by CUDA ")?.split_once(". ")?;
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    let usage = |line: &str| {
        // What a file computes is no part of the record.
        let numbers = line.split(" # ").next().unwrap_or(line);
        let cells: Vec<&str> = numbers.split_whitespace().collect();
        let [kernel, _, arch, registers, shared, stack, spills] = cells[..] else {
            return None;
        };
        Some(Usage {
            kernel: kernel.into(),
            arch: arch.strip_prefix("sm_")?.into(),
            registers: registers.parse().ok()?,
            shared: shared.parse().ok()?,
            stack: stack.parse().ok()?,
            spills: spills.parse().ok()?,
        })
    };
    Some((version?, text.lines().filter_map(usage).collect()))
}

/// The lines that are not part of that report: warnings, and what ptxas has to say of `wgmma`, which
/// it calls information (C7510 to C7519, in words that change from release to release): that sums
/// are touched before their wait, or a fence is missing, so that it makes the products wait for one
/// another.
pub fn remarks(log: &str) -> String {
    let report = |line: &&str| {
        let info = line.starts_with("ptxas info") && !line.contains("(C75");
        info || line.contains("stack frame")
    };
    let rest: Vec<&str> = log.lines().filter(|line| !report(line)).collect();
    rest.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nvcc 13.0 and 13.5 write it.
    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gemm_hopper_128' for 'sm_90a'
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : Function properties for gemm_hopper_128
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 16 bytes cumulative stack size, 192 bytes smem
ptxas warning : Registers are spilled to local memory in function 'gemm_hopper_128'
";

    #[test]
    fn resources_are_read() {
        let usage = usage(LOG);
        assert_eq!(usage.len(), 1);
        let Usage {
            kernel,
            arch,
            registers,
            shared,
            stack,
            spills,
        } = &usage[0];
        assert_eq!((kernel.as_str(), arch.as_str()), ("gemm_hopper_128", "90a"));
        assert_eq!((registers, shared, stack, spills), (&168, &192, &16, &20));
    }

    #[test]
    fn a_table_is_read_back() {
        let table = "kernel  file  arch  registers  shared  stack  spills\n\
                     sgd     kernels/sgd/2_vectors.cu  sm_90a  16  4  0  0  # SGD\n\n\
                     Compiled by CUDA 13.0. Shared: static, bytes a block.\n";
        let (version, usages) = recorded(table).expect("a table");
        assert_eq!((version, usages.len()), ((13, 0), 1));
        let of = |u: &Usage| (u.kernel.clone(), u.arch.clone(), u.registers, u.shared);
        assert_eq!(of(&usages[0]), ("sgd".into(), "90a".into(), 16, 4));
        assert!(recorded("no table").is_none());
    }

    #[test]
    fn warnings_and_serialised_products_are_remarked_upon() {
        let remarks = remarks(LOG);
        let lines: Vec<&str> = remarks.lines().collect();
        assert_eq!(lines.len(), 2, "{remarks}");
        assert!(lines[0].contains("(C7510)") && lines[1].contains("spilled"));
    }
}
