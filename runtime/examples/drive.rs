use runtime::*;
use std::collections::BTreeMap;
use std::time::Instant;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (kind, n, at_once, dir, root, prog, keeper) = (
        a[1].clone(),
        a[2].parse::<u32>().unwrap(),
        a[3].parse::<u32>().unwrap(),
        a[4].clone(),
        a[5].clone(),
        a[6].clone(),
        a[7].clone(),
    );
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async move {
        let opened = Runtime::open(Config { dir: (&dir).into(), program: keeper.into() }).await.unwrap();
        let rt = opened.runtime; let mut ev = opened.events;
        let pid0 = std::process::id();
        let make = |i: u32| {
            let id: TaskId = format!("t{pid0}-{i}").parse().unwrap();
            let (argv, place) = if kind == "p" { (format!("{root}/{prog}"), Place::Process(Process::default())) }
              else { (format!("/{prog}"), Place::Container(Box::new(Container::new(Root::Directory((&root).into()))))) };
            let mut l = Launch { place, ..Launch::new(id, [argv]) };
            l.limits.memory_max = Some(64 << 20); l.limits.pids_max = Some(64);
            l.env = BTreeMap::from([("PATH".to_owned(), "/".to_owned())]);
            l
        };
        if at_once == 1 {
            let (mut s, mut e) = (vec![], vec![]);
            for i in 0..n {
                let l = make(i); let id = l.id.clone();
                let b = Instant::now();
                rt.launch(l).await.unwrap();
                s.push(b.elapsed().as_secs_f64()*1e3);
                loop { if let Some(Event::Ended{..}) = ev.recv().await { break } }
                e.push(b.elapsed().as_secs_f64()*1e3);
                rt.remove(&id).await.unwrap();
            }
            s.sort_by(f64::total_cmp); e.sort_by(f64::total_cmp);
            let m = |v: &Vec<f64>, p: usize| v[v.len()*p/100];
            println!("{kind} started p10 {:.3} median {:.3}  ended p10 {:.3} median {:.3} p90 {:.3}", m(&s,10), m(&s,50), m(&e,10), m(&e,50), m(&e,90));
        } else {
            let b = Instant::now();
            let (mut next, mut fly, mut done) = (0, 0, 0);
            let mut set = tokio::task::JoinSet::new();
            while done < n {
                while next < n && fly < at_once { let (rt, l) = (rt.clone(), make(next)); next+=1; fly+=1; set.spawn(async move { rt.launch(l).await.map(drop).unwrap() }); }
                tokio::select! { Some(r) = set.join_next() => r.unwrap(), e = ev.recv() => if let Some(Event::Ended{id, ..}) = e { fly-=1; done+=1; let rt=rt.clone(); set.spawn(async move { rt.remove(&id).await.unwrap() }); } }
            }
            while set.join_next().await.is_some() {}
            println!("{kind} x{at_once}: {:.0} per s", f64::from(n)/b.elapsed().as_secs_f64());
        }
        if let Ok(ms) = std::env::var("PAUSE") { tokio::time::sleep(std::time::Duration::from_millis(ms.parse().unwrap())).await; }
        rt.stop_keeper(); rt.shut_down().await;
    });
}
